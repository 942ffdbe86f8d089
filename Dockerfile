# CPU image: docker build -t usl-reid . && docker run --rm usl-reid run method=mskd dataset=synthetic
FROM python:3.12-slim
RUN useradd --create-home --uid 1000 harness
WORKDIR /opt/harness
COPY . .
RUN apt-get update \
 && apt-get install --no-install-recommends --yes make=* \
 && rm -rf /var/lib/apt/lists/* \
 && make install-cpu PIP_ARGS=--no-cache-dir
ENV PATH=/opt/harness/.venv/bin:$PATH HARNESS_DATA=/data
USER 1000
WORKDIR /home/harness
ENTRYPOINT ["harness"]
CMD ["--help"]
