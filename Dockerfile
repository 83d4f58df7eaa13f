# docker build -t tfnas .
# docker run --rm -v tfnas:/data tfnas search target_ms=8
#
# For CPUs. Runs and tables land in /data. Images come by -v DIR:/images:ro and data.root=/images.
# --build-arg TORCH_INDEX=URL, as pytorch.org tells for CPUs, saves gigabytes: the usual torch has CUDA.
FROM python:3.11-slim AS wheel
WORKDIR /source
COPY LICENSE README.md pyproject.toml setup.cfg ./
COPY conf conf
COPY latency_tables latency_tables
COPY profilers profilers
COPY tfnas tfnas
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ARG TORCH_INDEX
WORKDIR /wheels
COPY constraints.txt ./
RUN pip install --no-cache-dir --no-deps ${TORCH_INDEX:+-i "$TORCH_INDEX"} -c constraints.txt torch
COPY --from=wheel /wheels ./
RUN pip install --no-cache-dir -c constraints.txt ./*.whl
RUN useradd --create-home tfnas && install --directory --owner=tfnas --group=tfnas /data
ENV XDG_DATA_HOME=/data
USER tfnas
WORKDIR /data
VOLUME /data
ENTRYPOINT ["tfnas"]
CMD ["--help"]
