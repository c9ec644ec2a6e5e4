# Who may learn from which image, and all images in one array
from logex_nb.run.workflow import Stage, study_of

study = study_of(config)
kind = type(study.source)
data = Stage(study, "data", also=(f"{kind.__module__.removeprefix('logex_nb.')}.{kind.__name__}",))


rule data:
    output: data.outputs
    params: made_of=lambda w: data.made_of(w, source=study.source, protocol=study.settings("protocol"), files=study.files)
    threads: 2
    shell: data.command
