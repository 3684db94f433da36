"""Which system calls a container may make: a list of what is allowed; everything else does not exist."""

from typing import Any

_ENOSYS = 38
_EPERM = 1
_EOPNOTSUPP = 95
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW* of clone(2): time, mount, cgroup, uts, ipc, user, pid, net
_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_SOCKET_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: not AF_VSOCK, which no namespace confines, nor AF_ALG ...
_AF_NETLINK = 16
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)

# What is left out on purpose, beside what only administrators need: ptrace, process_vm_readv, process_vm_writev, kcmp,
# pidfd_getfd, process_madvise (other processes); keyctl, add_key, request_key; bpf, perf_event_open, userfaultfd,
# io_uring_*, vmsplice (attack surface); mount, umount2, pivot_root, chroot, unshare, setns, fsopen and its like
# (namespaces); name_to_handle_at, open_by_handle_at, fanotify_init; clone3 (flags in memory cannot be filtered).
_NAMES = """
accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres clock_gettime
clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group
faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr
flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_waitv futimesat get_robust_list
get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid
getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt
gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill lchown lgetxattr link linkat listen
listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create mincore mkdir mkdirat mknod
mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2
pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv
preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg
recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid
setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid
setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink
symlinkat sync sync_file_range sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime
utimensat utimes vfork wait4 waitid write writev
"""
_HIDDEN_MEMORY = ("memfd_create", "msgget", "shmget")


def build_seccomp(machine: str, *, control_groups: bool = True) -> dict[str, Any]:
    """The `seccomp` part of an OCI bundle for this kind of machine (`platform.machine()`).

    Without control groups nothing may hold memory that no process shows as its own.
    """
    names = [name for name in _NAMES.split() if control_groups or name not in _HIDDEN_MEMORY]
    rules: list[dict[str, Any]] = [{"names": names, "action": "SCMP_ACT_ALLOW"}]
    rules += [_allow_equal("socket", family) for family in _SOCKET_FAMILIES]
    rules += [_allow_equal("personality", value) for value in _PERSONALITIES]
    rules += [
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
        },
        # libzmq, and so each Jupyter kernel, takes this for a machine that lists no interfaces; of others it dies.
        _allow_equal("socket", _AF_NETLINK) | {"action": "SCMP_ACT_ERRNO", "errnoRet": _EOPNOTSUPP},
        {"names": ["ptrace", "mount", "unshare", "setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM},
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _ENOSYS,  # programs fall back on what they find missing, not on what they find forbidden
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": rules,
    }


def _allow_equal(name: str, value: int) -> dict[str, Any]:
    return {
        "names": [name],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}],
    }
