# Training, evaluation and exports on CPUs.
#
#     docker build -t resnet_keras .
#     docker run --rm -v "$PWD:/data" resnet_keras run quickstart
FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim-bookworm
COPY requirements.txt /tmp/requirements.txt
COPY --from=build /wheels /wheels
# All but the last line, which installs a clone.
RUN sed '/^-e/d' /tmp/requirements.txt > /tmp/pinned.txt \
    && pip install --no-cache-dir -r /tmp/pinned.txt /wheels/*.whl \
    && rm -r /wheels /tmp/requirements.txt /tmp/pinned.txt
# Paths on the command line, and runs/, are relative to what is mounted here.
WORKDIR /data
ENTRYPOINT ["resnet-keras"]
CMD ["--help"]
