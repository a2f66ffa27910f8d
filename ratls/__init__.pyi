# What callers get from `import ratls`, for type checkers. `Client` and `Result` are the provider's,
# found by their entry point: no code of this package imports to the right.
from provider.client import Client as Client
from provider.client import Result as Result
from ratls import flight as flight
from ratls import grpc as grpc
from ratls import http as http
from ratls import sockets as sockets
from ratls import tunnel as tunnel
from ratls.address import Address as Address
from ratls.api import EnclaveEnd as EnclaveEnd
from ratls.api import ReportDataDiffers as ReportDataDiffers
from ratls.api import connect as connect
from ratls.api import enclave_end as enclave_end
from ratls.api import own_end as own_end
from ratls.api import verify_quote as verify_quote
from ratls.http import HttpTransport as HttpTransport
from ratls.sockets import AttestedSocket as AttestedSocket
from ratls.sockets import Listener as Listener
from verifier.anchors import TrustAnchors as TrustAnchors
from verifier.collateral import Collateral as Collateral
from verifier.errors import Exit as Exit
from verifier.errors import RatlsError as RatlsError
from verifier.verify import VerifiedQuote as VerifiedQuote

OWNER: str
__all__: list[str]
