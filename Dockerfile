# BrainDiff as a BIDS-App on processors:  docker build -t braindiff:0.1.0 .
#   docker run --rm -u "$(id -u):$(id -g)" -v BIDS_DIR:/data:ro -v OUT_DIR:/out braindiff:0.1.0 /data /out participant
FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="BrainDiff" \
      org.opencontainers.image.description="Corrects head motion in T1-weighted MR volumes, and shows what it changed" \
      org.opencontainers.image.licenses="Apache-2.0"

WORKDIR /opt/braindiff
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The index has PyTorch without CUDA.
RUN version="$(sed -n 's/^torch==//p' constraints.txt)" \
 && pip install --no-cache-dir "torch==${version}" --index-url https://download.pytorch.org/whl/cpu
COPY BrainDiffLogic BrainDiffLogic
COPY BrainDiffSlicer/BrainDiffViewer BrainDiffSlicer/BrainDiffViewer
COPY Resources Resources
RUN pip install --no-cache-dir --constraint constraints.txt ".[cohort]" \
 && rm -rf build ./*.egg-info

# Whoever runs it, with -u: what packages cache goes where everybody may write. No threads beyond those of the workers.
ENV HOME=/tmp PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
USER 65534
WORKDIR /tmp
ENTRYPOINT ["braindiff", "batch"]
CMD ["--help"]
