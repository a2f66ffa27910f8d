import ratls  # noqa: F401 - before a test loads gRPC, which reads its environment then
