# docker build -t tfnas .
# docker run --rm --network none -v tfnas:/home/tfnas tfnas search target_ms=8
#
# For CPUs. torch comes from where pip looks, with CUDA. Name an index with its CPU builds, and the
# image is some gigabytes smaller: docker build --build-arg PIP_EXTRA_INDEX_URL=URL -t tfnas .
FROM python:3.11-slim AS build
ARG PIP_EXTRA_INDEX_URL=""
RUN python -m venv /opt/tfnas
WORKDIR /source
COPY LICENSE README.md constraints.txt pyproject.toml setup.cfg ./
COPY conf conf
COPY latency_tables latency_tables
COPY profilers profilers
COPY tfnas tfnas
RUN /opt/tfnas/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.11-slim
RUN useradd --create-home tfnas
COPY --from=build /opt/tfnas /opt/tfnas
ENV PATH=/opt/tfnas/bin:$PATH
USER tfnas
WORKDIR /home/tfnas
ENTRYPOINT ["tfnas"]
CMD ["--help"]
