# What a frozen trunk sees in every image
from logex_nb.run.workflow import Stage, study_of

study = study_of(config)
features = Stage(study, "features")


rule features:
    input: Stage(study, "data").record
    output: features.outputs
    params: made_of=lambda w: features.made_of(w, frozen_trunk=study.settings("frozen_trunk"))
    threads: features.threads
    resources: gpu=1
    shell: features.command
