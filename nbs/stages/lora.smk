# A LoRA on the tail
from logex_nb.data.sources import locate
from logex_nb.run.workflow import Stage, study_of

study = study_of(config)
lora = Stage(study, "lora", ("{lora}", "{generation}"), dict(lora="{lora}", generation="{generation}"))


rule lora:
    input: Stage(study, "data").record, Stage(study, "base").record, lambda w: [locate(file)] if (file := study.settings("lora", **study.differences("loras", w.lora)).file) else []
    output: lora.outputs
    params: made_of=lambda w: lora.made_of(w, prompt=study.choices.prompt, lora=study.settings("lora", **study.differences("loras", w.lora)))
    threads: lora.threads
    priority: 6 # images wait for it
    resources: gpu=lora.devices
    shell: lora.command
