# One machine without a GPU. Never built where this repository is tested: there is no Docker.
#   docker build -f docker/cpu.Dockerfile -t recmind .
#   docker run --rm --shm-size 2g -v "$PWD:/work" recmind run configs/quickstart.yaml
FROM python:3.11
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml constraints.txt README.md LICENSE /opt/recmind/
COPY recmind_dist /opt/recmind/recmind_dist
COPY configs /opt/recmind/configs
RUN pip install --no-cache-dir --constraint /opt/recmind/constraints.txt '/opt/recmind[train,serve,gguf]'
ENV RAY_USAGE_STATS_ENABLED=0
WORKDIR /work
ENTRYPOINT ["recmind"]
