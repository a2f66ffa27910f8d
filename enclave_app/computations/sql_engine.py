"""DuckDB, locked: one fresh connection for each task, which sees agreed columns and nothing else.

    with engine(memory_mebibytes=512, seconds=60) as connection: ...
    require_locked()                        # at the start of an enclave whose policy has SQL

DuckDB trusts the SQL that it is given, and says so. This one runs only statements that every party
signed and that `sql_plan` has read; the lock is the second wall. No limit of the engine bounds one
text or list that a function makes: the list of functions does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from enclave_app.audit import load_solver
from enclave_app.errors import ComputeDeniedError
from policy.errors import ResourceLimitError
from verifier.errors import ConfigError

_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
    "allow_persistent_secrets": False,
    "enable_external_file_cache": False,
    "temp_directory": "",  # nothing spills to the host's disk
    "threads": 1,  #         sums of several threads differ from run to run
    "async_threads": 0,  #   eight otherwise, for files that are never read
    "perfect_ht_threshold": 17,  # groups of a 16-bit number in a plain array (see `sql_boxes`)
}
# Each must be refused by the engine itself.
FORBIDDEN = (
    "SELECT * FROM read_csv('/proc/self/environ')",
    "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM '/etc/passwd'",
    "COPY (SELECT 1) TO '/tmp/ratls-copied'",
    "ATTACH '/tmp/ratls-attached.db'",
    "EXPORT DATABASE '/tmp/ratls-exported'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '1TB'",
)


class EngineNotLocked(ConfigError):
    """The SQL engine of this enclave runs something that it must refuse."""

    code = "engine-not-locked"
    default_fix = "build the enclave with the versions of its lock file"


class StatementFailed(ComputeDeniedError):
    """The agreed statement could not be run on what came in."""

    code = "statement-failed"
    default_fix = "try the statement on made-up rows; casts and divisions depend on values"


class TableTooLong(ResourceLimitError):
    """The agreed statement ran longer than the policy lets it."""

    code = "table-too-long"
    default_fix = "agree on more seconds, or on a statement that joins fewer rows"


class TableTooLarge(ResourceLimitError):
    """The agreed statement needs more memory, or makes more groups, than the policy lets it."""

    code = "table-too-large"
    default_fix = "agree on more memory_mebibytes or max_groups, or on fewer groups"


@contextmanager
def engine(*, memory_mebibytes: int, seconds: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A locked connection. What DuckDB raises in the block is told without any of its text.

    Raises: StatementFailed, TableTooLong, TableTooLarge.
    """
    limits = {"memory_limit": f"{memory_mebibytes}MiB"}
    try:
        connection = duckdb.connect(":memory:", config=_SETTINGS | limits)
        try:
            connection.execute(f"SET max_execution_time = {1000 * seconds}")
            connection.execute("SET lock_configuration = true")
            yield connection
        finally:
            connection.close()
    # R20: a message may quote a value.
    except duckdb.OutOfMemoryException:
        raise TableTooLarge(
            "statement", expected=f"at most {memory_mebibytes} MiB", found="more"
        ) from None
    except duckdb.InterruptException:
        raise TableTooLong("statement", expected=f"at most {seconds} s", found="more") from None
    except duckdb.Error:
        raise StatementFailed("statement", expected="a result", found="an error") from None


def require_locked() -> None:
    """Try what must not work, each on a connection of its own.

    The solver of the audit is loaded, too: the first one in a process prints a line, and that one
    must not depend on rows.

    Raises: EngineNotLocked.
    """
    load_solver()
    for forbidden in FORBIDDEN:
        try:
            with engine(memory_mebibytes=64, seconds=10) as connection:
                connection.execute(forbidden)
        except StatementFailed:
            continue
        raise EngineNotLocked("SQL engine", expected="a refusal", found=f"it ran {forbidden!r}")
