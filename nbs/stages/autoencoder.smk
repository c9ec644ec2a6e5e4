# Real training images as the generator's autoencoder returns them
from logex_nb.run.workflow import Stage, study_of

study = study_of(config)
autoencoder = Stage(study, "autoencoder")


rule autoencoder:
    input: Stage(study, "data").record, Stage(study, "base").record
    output: autoencoder.outputs
    params: made_of=lambda w: autoencoder.made_of(w)
    threads: autoencoder.threads
    priority: 5
    resources: gpu=1
    shell: autoencoder.command
