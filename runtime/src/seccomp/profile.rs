//! The calls that a container may make when nobody says otherwise.
//!
//! The decisions are those of Docker's default profile, so that what runs there runs here: calls are refused that
//! reach past the container's namespaces, that change the machine, or that few programs need and attackers like. What
//! a capability is for is allowed to who has the capability. `docs/adr/0005-seccomp.md` tells the differences.

use oci_spec::runtime::{Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction as Action};
use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator as Op, LinuxSyscall};

/// A kernel's version: major and minor.
pub type KernelVersion = (u32, u32);

/// Allowed to everyone, by what they are for.
const ALLOWED: &[&str] = &[
    // files: opening and naming
    "access chdir close close_range creat faccessat faccessat2 fchdir getcwd link linkat mkdir mkdirat mknod mknodat
     open openat openat2 name_to_handle_at readlink readlinkat rename renameat renameat2 rmdir symlink symlinkat umask
     unlink unlinkat",
    // files: attributes
    "chmod chown chown32 fchmod fchmodat fchmodat2 fchown fchown32 fchownat lchown lchown32 futimesat utime utimensat
     utimensat_time64 utimes stat stat64 fstat fstat64 fstatat64 lstat lstat64 newfstatat statx statfs statfs64 fstatfs
     fstatfs64 getxattr fgetxattr lgetxattr getxattrat listxattr flistxattr llistxattr listxattrat setxattr fsetxattr
     lsetxattr setxattrat removexattr fremovexattr lremovexattr removexattrat",
    // files: content
    "read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek getdents getdents64
     copy_file_range sendfile sendfile64 splice tee vmsplice fadvise64 fadvise64_64 readahead fallocate ftruncate
     ftruncate64 truncate truncate64 sync syncfs fsync fdatasync sync_file_range flock fcntl fcntl64 ioctl cachestat",
    // descriptors: copying, waiting, watching
    "dup dup2 dup3 pipe pipe2 eventfd eventfd2 select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64
     epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 inotify_init
     inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark io_setup io_submit io_cancel io_getevents
     io_pgetevents io_pgetevents_time64 io_destroy",
    // the mounts of one's own namespace
    "listmount statmount",
    // memory
    "brk mmap mmap2 munmap mremap mprotect msync madvise mincore mlock mlock2 mlockall munlock munlockall mseal
     map_shadow_stack membarrier memfd_create memfd_secret pkey_alloc pkey_free pkey_mprotect process_mrelease
     remap_file_pages",
    // processes and threads
    "execve execveat exit exit_group fork vfork wait4 waitid waitpid getpid getppid gettid getpgid getpgrp getsid
     setpgid setsid pidfd_open pidfd_send_signal prctl set_tid_address get_thread_area set_thread_area rseq
     restart_syscall futex futex_time64 futex_requeue futex_wait futex_waitv futex_wake get_robust_list set_robust_list",
    // scheduling and limits
    "getcpu getpriority setpriority ioprio_get ioprio_set sched_getaffinity sched_setaffinity sched_getattr
     sched_setattr sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max
     sched_get_priority_min sched_rr_get_interval sched_rr_get_interval_time64 sched_yield getrlimit ugetrlimit
     setrlimit prlimit64 getrusage times",
    // signals
    "kill tkill tgkill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
     rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask sigreturn
     uretprobe",
    // time
    "time gettimeofday clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
     clock_nanosleep_time64 nanosleep alarm getitimer setitimer timer_create timer_delete timer_getoverrun timer_gettime
     timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
     timerfd_settime64 adjtimex clock_adjtime clock_adjtime64",
    // users and privileges: only ever given up
    "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32
     getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32
     setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32 capget capset seccomp
     landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    // sockets; `socket` has rules of its own
    "socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt send sendto
     sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64 socketcall",
    // System V and POSIX queues, semaphores, shared memory
    "ipc msgget msgsnd msgrcv msgctl semget semop semtimedop semtimedop_time64 semctl shmget shmat shmdt shmctl mq_open
     mq_unlink mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64 mq_notify mq_getsetattr",
    // the system
    "uname sysinfo getrandom",
];

/// Since this kernel a tracer cannot slip a call past the filter (93e35efb8de4), so tracing is safe to allow.
const TRACING: (KernelVersion, &str) = ((4, 8), "ptrace process_vm_readv process_vm_writev");

/// Of one host's architecture only.
const X86_ONLY: &str = "arch_prctl modify_ldt";
const ARM_ONLY: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// What a capability opens.
const BY_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::Bpf, "bpf"),
    (Capability::DacReadSearch, "open_by_handle_at"),
    (Capability::Perfmon, "perf_event_open"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
         sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::Syslog, "syslog"),
];

/// The execution domains that do no harm: Linux, and with it a 32-bit machine name, a 2.6 version, or both; and the
/// question which one it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The first socket family that is refused: the kernel's cryptography, `AF_ALG`. So is `AF_VSOCK`, 40, which reaches
/// the hypervisor.
const AF_ALG: u64 = 38;
/// The families above it that are allowed, as bits to ignore and a value: 39 and 41 to 63, where the kernel's end at
/// 45. The kernel reads 32 bits of this argument and a filter sees 64: by "greater than 40", 2^32 + 38 would pass, which
/// the kernel takes for 38.
const FAMILIES_ABOVE: [(u64, u64); 5] = [(0, 39), (0, 41), (0x1, 42), (0x3, 44), (0xf, 48)];

/// `CLONE_NEW*` but for `CLONE_NEWTIME`, which `clone` has no bit for: mnt, cgroup, uts, ipc, user, pid, net.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The default profile for a container that can have the capabilities `bounding` at most, on this host with this
/// kernel. All else answers `EPERM`.
pub fn default_profile(bounding: &Capabilities, kernel: KernelVersion) -> LinuxSeccomp {
    let (architectures, own) = match std::env::consts::ARCH {
        "aarch64" => (vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm], ARM_ONLY),
        "arm" => (vec![Arch::ScmpArchArm], ARM_ONLY),
        "x86" => (vec![Arch::ScmpArchX86], X86_ONLY),
        _ => (vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32], X86_ONLY),
    };
    let mut allowed: Vec<&str> = ALLOWED.to_vec();
    allowed.push(own);
    allowed.extend((kernel >= TRACING.0).then_some(TRACING.1));
    allowed.extend(
        BY_CAPABILITY.iter().filter(|(capability, _)| bounding.contains(capability)).map(|(_, names)| *names),
    );
    let mut names: Vec<String> =
        allowed.iter().flat_map(|names| names.split_whitespace()).map(Into::into).collect();
    names.sort_unstable();
    names.dedup();

    let mut syscalls = vec![rule(names, Action::ScmpActAllow, None)];
    syscalls.extend(by_argument());
    if !bounding.contains(&Capability::SysAdmin) {
        syscalls.push(allow_if("clone", Op::ScmpCmpMaskedEq, CLONE_NAMESPACES, 0));
        // Its flags are in memory, where no filter sees them; libraries then use `clone`.
        let mut clone3 = rule(vec!["clone3".into()], Action::ScmpActErrno, None);
        clone3.set_errno_ret(Some(libc::ENOSYS as u32));
        syscalls.push(clone3);
    }

    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(Action::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM as u32))
        .set_architectures(Some(architectures))
        .set_syscalls(Some(syscalls));
    profile
}

/// The calls that everyone may make with some arguments.
fn by_argument() -> impl Iterator<Item = LinuxSyscall> {
    let personality = PERSONALITIES.map(|persona| allow_if("personality", Op::ScmpCmpEq, persona, 0));
    let socket = allow_if("socket", Op::ScmpCmpLt, AF_ALG, 0);
    let above = FAMILIES_ABOVE.map(|(any, family)| allow_if("socket", Op::ScmpCmpMaskedEq, !any, family));
    personality.into_iter().chain([socket]).chain(above)
}

/// Allows `name` where its first argument compares so.
#[expect(clippy::expect_used, reason = "each field of the builder has a default, so it always builds")]
fn allow_if(name: &str, op: Op, value: u64, value_two: u64) -> LinuxSyscall {
    let first = LinuxSeccompArgBuilder::default().index(0_usize).op(op).value(value);
    let first = if op == Op::ScmpCmpMaskedEq { first.value_two(value_two) } else { first };
    rule(vec![name.into()], Action::ScmpActAllow, Some(vec![first.build().expect("a whole argument")]))
}

fn rule(names: Vec<String>, action: Action, args: Option<Vec<LinuxSeccompArg>>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names).set_action(action).set_args(args);
    rule
}
