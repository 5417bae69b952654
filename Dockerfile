# docker build -t scsam . && docker run --rm -v "$PWD":/data scsam train --data /data/my_folder --preset cpu --out /data/runs/x
# For a CPU. On a GPU leave the line with --index-url out and run with --gpus all.
FROM python:3.11-slim
COPY constraints.txt settings.ini setup.py pyproject.toml README.md LICENSE /src/
COPY scsam /src/scsam
RUN pip install --no-cache-dir -c /src/constraints.txt --index-url https://download.pytorch.org/whl/cpu torch torchvision \
 && pip install --no-cache-dir -c /src/constraints.txt "/src[medical,litemedsam]"
RUN useradd --create-home scsam
USER scsam
WORKDIR /home/scsam
ENTRYPOINT ["scsam"]
CMD ["--help"]
