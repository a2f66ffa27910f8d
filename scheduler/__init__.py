"""Who should be woken for what? A durable queue of signed tasks: a mailbox that nobody trusts.

with SchedulerClient(address, pinned_certificate, channel) as scheduler:   # scheduler.client
    digest = scheduler.submit(envelope)          # stored durably before this returns
    for task in scheduler.watch(): ...           # what was missed, then what comes

A scheduler holds no key of a party and sees no row. Its word only wakes somebody up: who
receives a task verifies it alone, and what it says of a task's fate is a hint.
"""
