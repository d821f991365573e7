# One machine with NVIDIA GPUs: PyPI's torch brings CUDA, the host its driver (nvidia-container-toolkit), the image the compiler
# that Triton asks for. Never built where this repository is tested: there is no Docker.
#   docker build -f docker/cuda.Dockerfile -t recmind:cuda .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" recmind:cuda run configs/quickstart.yaml
FROM python:3.11
COPY pyproject.toml constraints.txt README.md LICENSE /opt/recmind/
COPY recmind_dist /opt/recmind/recmind_dist
COPY configs /opt/recmind/configs
RUN pip install --no-cache-dir --constraint /opt/recmind/constraints.txt '/opt/recmind[train,serve,gguf]'
ENV RAY_USAGE_STATS_ENABLED=0
WORKDIR /work
ENTRYPOINT ["recmind"]
