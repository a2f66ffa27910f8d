# What the package uses of the generated module, which comes without types.
# ruff: noqa: N802 - the names of the contract
from collections.abc import Iterator

import grpc

from scheduler import task_service_pb2 as pb

class TaskServiceStub:
    Submit: grpc.UnaryUnaryMultiCallable[pb.SubmitRequest, pb.SubmitAnswer]
    List: grpc.UnaryUnaryMultiCallable[pb.ListRequest, pb.ListAnswer]
    Watch: grpc.UnaryStreamMultiCallable[pb.WatchRequest, pb.QueuedTask]
    Report: grpc.UnaryUnaryMultiCallable[pb.ReportRequest, pb.ReportAnswer]
    def __init__(self, channel: grpc.Channel) -> None: ...

class TaskServiceServicer:
    def Submit(
        self, request: pb.SubmitRequest, context: grpc.ServicerContext
    ) -> pb.SubmitAnswer: ...
    def List(self, request: pb.ListRequest, context: grpc.ServicerContext) -> pb.ListAnswer: ...
    def Watch(
        self, request: pb.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.QueuedTask]: ...
    def Report(
        self, request: pb.ReportRequest, context: grpc.ServicerContext
    ) -> pb.ReportAnswer: ...

def add_TaskServiceServicer_to_server(
    servicer: TaskServiceServicer, server: grpc.Server
) -> None: ...
