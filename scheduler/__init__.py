"""Which tasks wait, and what became of them? A durable queue of signed tasks, not trusted.

with SchedulerClient(address, pinned_certificate, channel) as scheduler:   # scheduler.client
    digest = scheduler.submit(envelope)          # stored durably before this returns
    for task in scheduler.watch(): ...           # what was missed, then what comes

A scheduler has no key of a party and sees no row. Its messages only start work: a party that
receives a task verifies it by itself, and the state of a task in the queue is a hint.
"""

import ratls  # noqa: F401 - before anything loads gRPC, which reads its environment then

# `ratls.names` looks for this line: a package of the same name may take the place of this one.
OWNER = "ratls: scheduler"
