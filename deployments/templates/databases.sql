-- Separate databases: Prefect and MLflow each have a table alembic_version.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
