# The flows, their worker, Prefect's server and MLflow's: one image, from a checkout, for the compose stack.
#   docker build -f deployments/platform.Dockerfile -t truecourse-platform:VERSION .
FROM python:3.12-slim
WORKDIR /opt/truecourse
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . ./
RUN pip install --no-cache-dir --no-deps --editable . && useradd --uid 1034 truecourse && install -d -o truecourse /data
USER 1034
ENV TRUECOURSE_HOME=/data DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true
