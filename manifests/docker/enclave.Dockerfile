# The enclave for a node: the measured folder with its signed manifest, and beside it `ratls doctor`.
#
#   docker build -f manifests/docker/enclave.Dockerfile --build-arg BASE=IMAGE@sha256:DIGEST \
#     --build-context enclave=DIR -t ratls-enclave .
#
# BASE is a Debian with Gramine 1.9 and Python 3.11. DIR holds what manifests/gramine/README.md
# makes: image/, ratls-enclave.manifest.sgx and ratls-enclave.sig, made for /opt/ratls/image.
ARG BASE

FROM ${BASE} AS build
ARG BASE
# A tag can be moved to other code.
RUN case "${BASE}" in \
      *@sha256:*) ;; \
      *) echo "BASE is ${BASE}: name an image by its digest, IMAGE@sha256:…" >&2; exit 1 ;; \
    esac
WORKDIR /src
COPY requirements/run.txt requirements/arrays.txt requirements/
RUN python3 -m venv /opt/ratls/tools \
 && /opt/ratls/tools/bin/pip install --no-cache-dir --require-hashes \
      -r requirements/run.txt -r requirements/arrays.txt
COPY pyproject.toml README.md LICENSE ./
COPY verifier verifier
COPY policy policy
COPY ratls ratls
COPY scheduler scheduler
COPY provider provider
COPY enclave_app enclave_app
RUN /opt/ratls/tools/bin/pip install --no-cache-dir --no-index --no-deps --no-build-isolation .

FROM ${BASE}
# On the host's side: it looks at the node, and none of it is seen by the enclave.
COPY --from=build /opt/ratls/tools /opt/ratls/tools
# The path is measured as text. `enclave` is the folder of --build-context.
# hadolint ignore=DL3022
COPY --from=enclave image /opt/ratls/image
# hadolint ignore=DL3022
COPY --from=enclave ratls-enclave.manifest.sgx ratls-enclave.sig /opt/ratls/
ENV PATH=/opt/ratls/tools/bin:$PATH
WORKDIR /opt/ratls
USER 10001:10001
CMD ["gramine-sgx", "ratls-enclave"]
