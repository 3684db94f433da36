#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TRY(name, ...) do { errno = 0; if (syscall(__VA_ARGS__) >= 0) printf("%s ", name); } while (0)
int main(void) {
  char page[4096] = {0};
  TRY("ptrace", SYS_ptrace, 0, 0, 0, 0); TRY("ptrace-attach", SYS_ptrace, 16, 1, 0, 0);
  TRY("mount", SYS_mount, "none", "/tmp", "tmpfs", 0, 0); TRY("umount", SYS_umount2, "/proc", 2);
  TRY("unshare-user", SYS_unshare, CLONE_NEWUSER); TRY("unshare-net", SYS_unshare, CLONE_NEWNET);
  TRY("clone-user", SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0); TRY("clone3", SYS_clone3, page, 88);
  TRY("setns", SYS_setns, open("/proc/1/ns/net", O_RDONLY), 0); TRY("chroot", SYS_chroot, "/tmp");
  TRY("pivot_root", SYS_pivot_root, "/tmp", "/tmp"); TRY("keyctl", SYS_keyctl, 0, -3, 0, 0, 0);
  TRY("add_key", SYS_add_key, "user", "a", "b", 1, -3); TRY("request_key", SYS_request_key, "user", "a", 0, -3);
  TRY("bpf", SYS_bpf, 0, page, 64); TRY("perf", SYS_perf_event_open, page, 0, -1, -1, 0);
  TRY("userfaultfd", SYS_userfaultfd, 1); TRY("io_uring", SYS_io_uring_setup, 8, page);
  TRY("process_vm_readv", SYS_process_vm_readv, 1, page, 1, page, 1, 0); TRY("kexec", SYS_kexec_load, 0, 0, 0, 0);
  TRY("init_module", SYS_init_module, page, 8, ""); TRY("reboot", SYS_reboot, 0xfee1dead, 672274793, 0, 0);
  TRY("sethostname", SYS_sethostname, "x", 1); TRY("settime", SYS_clock_settime, 0, page);
  TRY("open_by_handle", SYS_open_by_handle_at, 3, page, 0); TRY("fsopen", SYS_fsopen, "tmpfs", 0);
  TRY("name_to_handle", SYS_name_to_handle_at, -100, "/", page, page, 0); TRY("swapon", SYS_swapon, "/tmp/x", 0);
  TRY("open_tree", SYS_open_tree, -100, "/", 1);
  TRY("setuid", SYS_setuid, 0); TRY("setgid", SYS_setgid, 0); TRY("syslog", SYS_syslog, 3, page, 100);
  TRY("mknod-device", SYS_mknod, "/tmp/disk", 060666, 0xfe00); TRY("iopl", SYS_iopl, 3); TRY("acct", SYS_acct, 0);
  TRY("vsock", SYS_socket, 40, SOCK_STREAM, 0); TRY("alg", SYS_socket, 38, SOCK_SEQPACKET, 0);
  TRY("packet", SYS_socket, 17, SOCK_RAW, 0); TRY("netlink", SYS_socket, 16, SOCK_RAW, 0);
  TRY("raw", SYS_socket, 2, SOCK_RAW, 1); TRY("kcmp", SYS_kcmp, 1, 1, 0, 0, 0);
  TRY("quotactl", SYS_quotactl, 0, 0, 0, 0);
  printf("end\n");
}
