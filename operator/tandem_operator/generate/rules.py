"""What the validators of `tandem_core.job` check, in CEL and in the same words; tests compare both on an API server."""

from tandem_core.job.hybrid import EXPERT_PARALLEL
from tandem_core.job.rljob import CPU_HEAD_SIZES
from tandem_core.job.schema import QUANTITY, QUANTITY_HINT

from tandem_operator.generate.rule import Rule

_SCRATCH = "!has(self.model.scratch) || "
_LOSS_COMPARES = "self.algorithm.loss in ['omd', 'grpo']"
_PROMPTS = "(has(self.rollout.completePrompts) ? self.rollout.completePrompts : self.rollout.prompts)"
_WORLD = "self.replicas * self.ranksPerReplica"
_NAME = "(has({0}.name) ? {0}.name : {0}.type)"

RULES = (
    Rule(
        "spec.model",
        "[has(self.path), has(self.hub), has(self.scratch)].exists_one(given, given)",
        "model needs exactly one of path, hub and scratch",
    ),
    Rule(
        "spec.model",
        "!has(self.revision) || has(self.hub)",
        "model.revision goes with model.hub: add hub, or remove revision",
    ),
    Rule(
        "spec.model",
        "!has(self.path) || self.path.startsWith('/')",
        "model.path must be absolute: every pod mounts it at that place",
    ),
    Rule(
        "spec.model.scratch",
        "self.attentionHeads % self.keyValueHeads == 0",
        "keyValueHeads ({self.keyValueHeads}) must divide attentionHeads ({self.attentionHeads}): "
        "write a divisor of it",
    ),
    Rule(
        "spec.model.scratch",
        "(self.architecture == 'qwen3_moe') == (self.experts > 0)",
        "experts must be above 0 for architecture qwen3_moe, and 0 (or left out) for the others",
    ),
    Rule(
        "spec.model.scratch",
        "self.experts == 0 || self.expertsPerToken <= self.experts",
        "expertsPerToken ({self.expertsPerToken}) must not exceed experts ({self.experts})",
    ),
    Rule(
        "spec.data",
        "has(self.reasoningGym) != has(self.dataset)",
        "data needs exactly one of reasoningGym and dataset",
    ),
    Rule(
        "spec.data",
        "self.sampling != 'curriculum' || !has(self.dataset) || has(self.dataset.difficultyField)",
        "data.sampling: curriculum needs data.dataset.difficultyField, the column to order by",
    ),
    Rule(
        "spec.rewards",
        f"self.scorers.all(a, self.scorers.exists_one(b, {_NAME.format('a')} == {_NAME.format('b')}))",
        "each of rewards.scorers needs a name of its own: set name",
    ),
    Rule(
        "spec.rollout.repetition",
        "self.maxPatternTokens == 0 || self.minPatternTokens <= self.maxPatternTokens",
        "minPatternTokens ({self.minPatternTokens}) must not exceed maxPatternTokens ({self.maxPatternTokens})",
    ),
    Rule(
        "spec.rollout",
        "!has(self.tokensPerIteration) || self.tokensPerIteration <= self.maxTokens",
        "rollout.tokensPerIteration ({self.tokensPerIteration}) must not exceed rollout.maxTokens ({self.maxTokens}): "
        "lower it, or leave it out",
    ),
    Rule(
        "spec.rollout",
        "!has(self.completePrompts) || self.completePrompts <= self.prompts",
        "rollout.completePrompts ({self.completePrompts}) must not exceed rollout.prompts ({self.prompts})",
    ),
    Rule(
        "spec.hybrid.trainer",
        "!self.sequenceParallel || self.tensorParallel > 1",
        "sequenceParallel needs tensorParallel above 1: set tensorParallel, or leave it out",
    ),
    Rule(
        "spec.hybrid",
        f"{_WORLD} % (self.trainer.tensorParallel * self.trainer.pipelineParallel) == 0",
        "tensorParallel x pipelineParallel ({self.trainer.tensorParallel} x {self.trainer.pipelineParallel}) does not "
        "divide the ranks, replicas x ranksPerReplica ({self.replicas} x {self.ranksPerReplica}): change one of them",
    ),
    Rule(
        "spec.hybrid",
        f"{_WORLD} / self.trainer.pipelineParallel % self.trainer.expertParallel == 0",
        "expertParallel ({self.trainer.expertParallel}) does not divide the ranks of a pipeline stage "
        f"({{{_WORLD} / self.trainer.pipelineParallel}}): change one of them",
    ),
    Rule(
        "spec.hybrid",
        "self.device == 'cpu' || self.ranksPerReplica % self.inference.tensorParallel == 0",
        "inference.tensorParallel ({self.inference.tensorParallel}) does not divide ranksPerReplica "
        "({self.ranksPerReplica}): change one of them",
    ),
    Rule(
        "spec.hybrid",
        "self.device == 'gpu' || self.inference.release != 'sleep'",
        "inference.release: sleep needs GPUs (it does nothing on cpu): write restart or none",
    ),
    Rule(
        "spec.hybrid",
        "self.device == 'gpu' || self.deviceAllocation != 'wholeNode'",
        "hybrid.deviceAllocation: wholeNode needs hybrid.device: gpu: set device, or leave it out",
    ),
    Rule(
        "spec.hybrid",
        "self.device == 'gpu' || has(self.inference.kvCacheBytes)",
        "on cpu inference.kvCacheBytes must be set, or vLLM takes nearly all memory: for a small model write 67108864 "
        "(64 MiB)",
    ),
    Rule(
        "spec.hybrid",
        f"self.device == 'gpu' || !self.inference.extraArguments.exists(a, a.matches('{EXPERT_PARALLEL.pattern}'))",
        "inference.extraArguments: --enable-expert-parallel needs GPUs (on cpu it ends vLLM): remove it",
    ),
    Rule(
        "spec.elastic",
        "self.min <= self.max",
        "elastic.min ({self.min}) must not exceed elastic.max ({self.max})",
    ),
    Rule(
        "spec.elastic",
        "!has(self.replicas) || self.scaler == 'external'",
        "elastic.replicas needs elastic.scaler: external: set it, or remove replicas",
    ),
    Rule(
        "spec.scheduling",
        "self.gang != 'kueue' || has(self.queue)",
        "scheduling.gang: kueue needs scheduling.queue: write the name of a LocalQueue",
    ),
    Rule(
        "spec.scheduling",
        "!has(self.queue) || self.gang in ['kueue', 'volcano']",
        "scheduling.queue needs scheduling.gang: kueue or volcano: set gang, or remove queue",
    ),
    Rule(
        "spec.storage",
        "(self.kind == 'postgresql') == has(self.urlSecret)",
        "storage.urlSecret goes with storage.kind: postgresql: it names the Secret whose key `url` holds the address; "
        "set both, or neither",
    ),
    Rule(
        "spec",
        _SCRATCH + "(self.model.scratch.attentionHeads % self.hybrid.trainer.tensorParallel == 0 && "
        "self.model.scratch.keyValueHeads % self.hybrid.trainer.tensorParallel == 0)",
        "hybrid.trainer.tensorParallel ({self.hybrid.trainer.tensorParallel}) must divide model.scratch.attentionHeads "
        "({self.model.scratch.attentionHeads}) and keyValueHeads ({self.model.scratch.keyValueHeads}): lower it, or "
        "change the heads",
    ),
    Rule(
        "spec",
        _SCRATCH + "self.model.scratch.layers % self.hybrid.trainer.pipelineParallel == 0",
        "hybrid.trainer.pipelineParallel ({self.hybrid.trainer.pipelineParallel}) must divide model.scratch.layers "
        "({self.model.scratch.layers})",
    ),
    Rule(
        "spec",
        _SCRATCH + "self.hybrid.trainer.expertParallel == 1 || (self.model.scratch.experts > 0 && "
        "self.model.scratch.experts % self.hybrid.trainer.expertParallel == 0)",
        "hybrid.trainer.expertParallel ({self.hybrid.trainer.expertParallel}) must divide model.scratch.experts "
        "({self.model.scratch.experts}); without experts leave it out",
    ),
    Rule(
        "spec",
        _SCRATCH + f"self.hybrid.device == 'gpu' || self.model.scratch.headSize in {list(CPU_HEAD_SIZES)}",
        "model.scratch.headSize ({self.model.scratch.headSize}) is none that vLLM knows on cpu: "
        f"write one of {', '.join(map(str, CPU_HEAD_SIZES))}",
    ),
    Rule(
        "spec",
        "has(self.data.reasoningGym) || !self.rewards.scorers.exists(scorer, scorer.type == 'reasoning-gym')",
        "a reasoning-gym reward needs data.reasoningGym: use exact, math or regex for a dataset",
    ),
    Rule(
        "spec",
        f"self.rollout.groupSize > 1 || !({_LOSS_COMPARES})",
        "rollout.groupSize must be at least 2 for algorithm.loss ({self.algorithm.loss}): answers are compared within "
        "their group; a group of one teaches nothing",
    ),
    Rule(
        "spec",
        f"self.rollout.temperature > 0.0 || !({_LOSS_COMPARES})",
        "rollout.temperature 0 (greedy) makes all answers of a group alike, and algorithm.loss ({self.algorithm.loss}) "
        "learns from their differences: write loss: rest, or a temperature above 0",
    ),
    Rule(
        "spec",
        f"self.algorithm.updatesPerIteration <= {_PROMPTS}",
        "algorithm.updatesPerIteration ({self.algorithm.updatesPerIteration}) must not exceed the prompts of an "
        f"iteration ({{{_PROMPTS}}}): rollout.completePrompts or rollout.prompts",
    ),
    *(
        Rule(f"spec.{place}", f"self.matches(r'^{QUANTITY}$')", f"{place} ({{self}}) {QUANTITY_HINT}")
        for place in ("hybrid.sharedMemory", "checkpoint.size", "storage.size")
    ),
)
