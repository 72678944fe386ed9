# hvlite in a container: CUDA runtime, an ordinary user, no privileges.
#
#   docker build -t hvlite .
#   docker run --rm hvlite                                         # what the container can do: hvlite doctor
#   docker run --rm --gpus all --ulimit memlock=-1 -v "$PWD/ckpts:/models:ro" -v "$PWD/videos:/videos" hvlite \
#       hvlite generate "a cat walks on the grass" --model /models --save-path /videos
#
# torch brings its own CUDA libraries; the image adds the C compiler and headers that Triton needs at run time.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

RUN apt-get update \
    && apt-get install --no-install-recommends -y gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 hvlite \
    && install -d -o hvlite -g hvlite /app /videos
USER hvlite
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1

COPY --chown=hvlite:hvlite . /app/source
RUN python3 -m venv .venv \
    && pip install --no-cache-dir --disable-pip-version-check -c source/constraints.txt './source[gpu]'

WORKDIR /videos
CMD ["hvlite", "doctor"]
