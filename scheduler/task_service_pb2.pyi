from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DatasetState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATASET_STATE_UNSPECIFIED: _ClassVar[DatasetState]
    WAITING: _ClassVar[DatasetState]
    RELEASED: _ClassVar[DatasetState]
    REFUSED: _ClassVar[DatasetState]
DATASET_STATE_UNSPECIFIED: DatasetState
WAITING: DatasetState
RELEASED: DatasetState
REFUSED: DatasetState

class SubmitRequest(_message.Message):
    __slots__ = ("envelope",)
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    def __init__(self, envelope: _Optional[bytes] = ...) -> None: ...

class SubmitAnswer(_message.Message):
    __slots__ = ("task_digest",)
    TASK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    task_digest: bytes
    def __init__(self, task_digest: _Optional[bytes] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("policy_digest", "task_digest", "cursor")
    POLICY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TASK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    policy_digest: bytes
    task_digest: bytes
    cursor: bytes
    def __init__(self, policy_digest: _Optional[bytes] = ..., task_digest: _Optional[bytes] = ..., cursor: _Optional[bytes] = ...) -> None: ...

class ListAnswer(_message.Message):
    __slots__ = ("tasks", "more")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[QueuedTask]
    more: bool
    def __init__(self, tasks: _Optional[_Iterable[_Union[QueuedTask, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("cursor",)
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    cursor: bytes
    def __init__(self, cursor: _Optional[bytes] = ...) -> None: ...

class QueuedTask(_message.Message):
    __slots__ = ("task_digest", "envelope", "datasets", "cursor")
    TASK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    task_digest: bytes
    envelope: bytes
    datasets: _containers.RepeatedCompositeFieldContainer[DatasetStatus]
    cursor: bytes
    def __init__(self, task_digest: _Optional[bytes] = ..., envelope: _Optional[bytes] = ..., datasets: _Optional[_Iterable[_Union[DatasetStatus, _Mapping]]] = ..., cursor: _Optional[bytes] = ...) -> None: ...

class DatasetStatus(_message.Message):
    __slots__ = ("dataset", "owner", "state", "code", "instance")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    owner: str
    state: DatasetState
    code: str
    instance: bytes
    def __init__(self, dataset: _Optional[str] = ..., owner: _Optional[str] = ..., state: _Optional[_Union[DatasetState, str]] = ..., code: _Optional[str] = ..., instance: _Optional[bytes] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("task_digest", "dataset", "state", "code", "instance")
    TASK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    task_digest: bytes
    dataset: str
    state: DatasetState
    code: str
    instance: bytes
    def __init__(self, task_digest: _Optional[bytes] = ..., dataset: _Optional[str] = ..., state: _Optional[_Union[DatasetState, str]] = ..., code: _Optional[str] = ..., instance: _Optional[bytes] = ...) -> None: ...

class ReportAnswer(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: DatasetStatus
    def __init__(self, status: _Optional[_Union[DatasetStatus, _Mapping]] = ...) -> None: ...
