"""The loops that run a model, one module per task; each has ``run(job: JobContext) -> dict`` and writes its arrays into the job's folder."""
