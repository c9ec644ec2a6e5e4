# A classifier of one arm, from one seed
from logex_nb.run.workflow import Stage, needs_of, study_of

study = study_of(config)
classifier = Stage(study, "classifier", ("{arm}", "seed{seed}"), dict(arm="{arm}", seed="{seed}"))


rule classifier:
    input: lambda w: needs_of(study, w.arm, w.seed)
    output: classifier.outputs
    wildcard_constraints: arm="|".join(k for k, arm in study.arms.items() if arm.trainer == "classifier"), seed=r"\d+"
    params: made_of=lambda w: classifier.made_of(w, training=study.training(w.arm), arm=study.arms[w.arm], decoded=study.decoded(w.arm))
    threads: classifier.threads
    resources: gpu=classifier.devices
    shell: classifier.command
