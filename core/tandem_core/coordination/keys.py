"""The names of a job's keys in etcd."""

from dataclasses import dataclass

from tandem_core.coordination.records import Role
from tandem_core.phases import Phase


@dataclass(frozen=True)
class JobKeys:
    """All keys of the job with this uid; they share one prefix, which one etcd role may be bound to."""

    job_uid: str

    @property
    def prefix(self) -> str:
        """Everything of the job."""
        return f"/tandem/{self.job_uid}/"

    @property
    def leader(self) -> str:
        """Leased: somebody leads now."""
        return f"{self.prefix}leader"

    @property
    def fence(self) -> str:
        """Who led last; stays when his lease has run out. Every write of a leader checks that it is still he."""
        return f"{self.prefix}fence"

    @property
    def phase(self) -> str:
        """The PhaseRecord."""
        return f"{self.prefix}phase"

    @property
    def control(self) -> str:
        """The Control record."""
        return f"{self.prefix}control"

    @property
    def load(self) -> str:
        """The Load record."""
        return f"{self.prefix}load"

    @property
    def summary(self) -> str:
        """The Summary record."""
        return f"{self.prefix}summary"

    @property
    def rendezvous(self) -> str:
        """The state of torchrun's rendezvous."""
        return f"{self.prefix}rendezvous"

    @property
    def members(self) -> str:
        """Prefix of all members."""
        return f"{self.prefix}members/"

    def member(self, role: Role, name: str) -> str:
        """One member."""
        return f"{self.members}{role}/{name}"

    @property
    def all_acks(self) -> str:
        """Prefix of all acknowledgements."""
        return f"{self.prefix}acks/"

    def acks(self, iteration: int, phase: Phase | None = None) -> str:
        """Prefix of the acknowledgements of an iteration, or of one of its phases."""
        return f"{self.all_acks}{iteration:08d}/" + (f"{phase}/" if phase else "")

    def ack(self, iteration: int, phase: Phase, member: str) -> str:
        """One acknowledgement."""
        return self.acks(iteration, phase) + member

    @property
    def weights(self) -> str:
        """Prefix of all versions' manifest parts and commits."""
        return f"{self.prefix}weights/"

    def version(self, version: int) -> str:
        """Prefix of one version."""
        return f"{self.weights}{version:08d}/"

    def manifest_parts(self, version: int) -> str:
        """Prefix of all ranks' manifest parts."""
        return f"{self.version(version)}parts/"

    def manifest_part(self, version: int, rank: int) -> str:
        """One rank's manifest part."""
        return f"{self.manifest_parts(version)}{rank:05d}"

    def commit(self, version: int) -> str:
        """Exists if and only if the version may be served."""
        return f"{self.version(version)}commit"

    @property
    def newest_commit(self) -> str:
        """The Commit record of the newest version: written in the same transaction as its own commit key."""
        return f"{self.prefix}newest_commit"
