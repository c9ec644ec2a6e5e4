# The generator that LoRA adapts
from logex_nb.run.workflow import Stage, study_of

study = study_of(config)
data, base = Stage(study, "data"), Stage(study, "base")
settings = dict(base=study.choices.base, prompt=study.choices.prompt, architecture=study.settings("architecture"), pretrain=study.settings("pretrain"), decoder_tuning=study.settings("decoder_tuning"))


rule base:
    input: data.record
    output: base.outputs
    params: made_of=lambda w: base.made_of(w, **settings)
    threads: base.threads
    priority: 7 # all that generates waits for it
    resources: gpu=base.devices
    shell: base.command
