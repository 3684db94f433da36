"""The languages, and how each compiles and runs. An image has a language if it has its programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tandem_core.sandbox.messages import MEBIBYTE

from tandem_sandbox.images.image import Image

COMPILE_ENVIRONMENT = {"HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108 - a path in the container


@dataclass(frozen=True, slots=True)
class Language:
    """How a language is used. `{memory}` in a command: 7/8 of the allowed memory, in MiB."""

    name: str
    file: str
    """Name of the source file."""
    run: tuple[str, ...]
    compile: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()
    """More programs that must be there, beside the first of both commands."""
    environment: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    """Debian packages that have it; none: it comes in images that are imported."""
    processes: int = 0
    """Threads that its runtime adds to what a program may have."""

    @property
    def programs(self) -> tuple[str, ...]:
        """What an image must have."""
        own = (self.compile or self.run)[0]
        return (*([] if own.startswith("./") else [own]), *self.needs)

    def is_in(self, image: Image) -> bool:
        """Whether the image has it."""
        return all(image.find(program) for program in self.programs)

    def run_command(self, memory_bytes: int) -> tuple[str, ...]:
        """The command for a run with so much memory."""
        megabytes = str(max(4, memory_bytes * 7 // 8 // MEBIBYTE))
        return tuple(part.replace("{memory}", megabytes) for part in self.run)


_GO = {"GOCACHE": "/tmp/go", "GOPATH": "/tmp/gopath", "GO111MODULE": "off", "CGO_ENABLED": "0", "GOFLAGS": "-p=1"}  # noqa: S108
_CPP = ("-O2", "-std=c++20", "-o", "main", "main.cpp")

LANGUAGES: Mapping[str, Language] = {
    language.name: language
    for language in (
        Language("bash", "main.sh", ("bash", "main.sh"), packages=("bash",)),
        Language("python", "main.py", ("python3", "main.py"), packages=("python3-minimal", "python3")),
        Language("c", "main.c", ("./main",), ("gcc", "-O2", "-std=c17", "-o", "main", "main.c", "-lm"), ("ld",),
                 packages=("gcc", "libc6-dev")),
        Language("cpp", "main.cpp", ("./main",), ("g++", *_CPP), ("ld",), packages=("g++",)),
        Language("javascript", "main.js", ("node", "--max-old-space-size={memory}", "main.js"), packages=("nodejs",),
                 processes=16),
        Language("typescript", "main.ts", ("node", "--max-old-space-size={memory}", "main.js"),
                 ("tsc", "--target", "es2020", "--module", "commonjs", "main.ts"), ("node",),
                 packages=("node-typescript", "nodejs"), processes=16),
        Language("java", "Main.java",
                 ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss64m", "-Xmx{memory}m", "Main"),
                 ("javac", "-J-XX:+UseSerialGC", "-J-Xmx{memory}m", "Main.java"), ("java",),
                 packages=("default-jdk-headless",), processes=32),
        Language("go", "main.go", ("./main",), ("go", "build", "-o", "main", "main.go"), environment=_GO,
                 packages=("golang-go",), processes=16),
        Language("rust", "main.rs", ("./main",), ("rustc", "-O", "--edition", "2021", "-o", "main", "main.rs"), ("cc",),
                 packages=("rustc", "gcc"), processes=16),
        Language("perl", "main.pl", ("perl", "main.pl"), packages=("perl",)),
        Language("ruby", "main.rb", ("ruby", "main.rb"), packages=("ruby",)),
        Language("lua", "main.lua", ("lua5.4", "main.lua"), packages=("lua5.4",)),
        Language("php", "main.php", ("php", "main.php"), packages=("php-cli",)),
        Language("r", "main.r", ("Rscript", "main.r"), packages=("r-base-core",)),
        Language("racket", "main.rkt", ("racket", "main.rkt"), packages=("racket",)),
        Language("julia", "main.jl", ("julia", "main.jl"), packages=("julia",), processes=16),
        Language("haskell", "main.hs", ("./main",), ("ghc", "-O1", "-v0", "-o", "main", "main.hs"), packages=("ghc",)),
        Language("ocaml", "main.ml", ("./main",), ("ocamlfind", "ocamlopt", "-package", "str", "-linkpkg", "-o", "main",
                 "main.ml"), packages=("ocaml-nox", "ocaml-findlib")),
        Language("d", "main.d", ("./main",), ("ldc2", "-O2", "-of=main", "main.d"), ("gcc",),
                 packages=("ldc", "gcc", "libc6-dev")),
        Language("pascal", "main.pas", ("./main",), ("fpc", "-O2", "main.pas"), packages=("fp-compiler",)),
        Language("elixir", "main.exs", ("elixir", "main.exs"), packages=("elixir",), processes=64),
        Language("clojure", "main.clj", ("clojure", "main.clj"), packages=("clojure",), processes=32),
        Language("scala", "main.scala", ("scala", "Main"), ("scalac", "main.scala"), packages=("scala",), processes=32),
        Language("kotlin", "main.kt", ("java", "-XX:+UseSerialGC", "-Xmx{memory}m", "-jar", "main.jar"),
                 ("kotlinc", "-include-runtime", "-d", "main.jar", "main.kt"), ("java",),
                 packages=("kotlin", "default-jdk-headless"), processes=32),
        Language("csharp", "main.cs", ("mono", "main.exe"), ("mcs", "-out:main.exe", "main.cs"), ("mono",),
                 packages=("mono-mcs",), processes=16),
        Language("ada", "main.adb", ("./main",), ("gnatmake", "-q", "-O2", "main.adb"), packages=("gnat",)),
        Language("fortran", "main.f90", ("./main",), ("gfortran", "-O2", "-o", "main", "main.f90"),
                 packages=("gfortran",)),
        Language("nim", "main.nim", ("./main",), ("nim", "c", "-d:release", "--hints:off", "-o:main", "main.nim"),
                 ("gcc",), packages=("nim", "gcc", "libc6-dev")),
        Language("swift", "main.swift", ("./main",), ("swiftc", "-O", "-o", "main", "main.swift"), processes=16),
        Language("dart", "main.dart", ("./main",), ("dart", "compile", "exe", "-o", "main", "main.dart"), processes=16),
        # A proof is checked by the command `lean main.lean`, which ends with 1 if it is wrong; `sorry` is a warning.
        Language("lean", "main.lean", ("lean", "--run", "main.lean"), processes=16),
    )
}  # fmt: skip


def languages_in(image: Image) -> Sequence[str]:
    """Names of the languages that the image has."""
    return [name for name, language in LANGUAGES.items() if language.is_in(image)]
