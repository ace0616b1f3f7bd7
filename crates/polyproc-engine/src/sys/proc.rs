//! What /proc tells of a process.

/// How many threads this process has.
pub fn threads() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(17)?.parse().ok()
}

/// The pid of the process that a pidfd of ours names; `None` if the descriptor is not a pidfd.
pub fn pid_behind(descriptor: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

/// The pid of the calling process.
pub fn pid() -> i32 {
    // SAFETY: getpid has no preconditions.
    unsafe { libc::getpid() }
}

/// The pid of the process that started this one, or of who looks after it since that ended.
pub fn parent() -> i32 {
    // SAFETY: getppid has no preconditions.
    unsafe { libc::getppid() }
}

/// The kernel's number of the calling thread.
pub fn thread() -> i32 {
    thread_local! {
        static KNOWN: std::cell::Cell<(i32, i32)> = const { std::cell::Cell::new((0, 0)) };
    }
    // The number is remembered together with the fork count, since a forked child's only thread has a new one.
    let generation = super::fork::count();
    KNOWN.with(|known| match known.get() {
        (0, _) => {
            // SAFETY: gettid has no preconditions.
            let thread = unsafe { libc::gettid() };
            known.set((thread, generation));
            thread
        }
        (thread, at) if at == generation => thread,
        _ => {
            // SAFETY: as above.
            let thread = unsafe { libc::gettid() };
            known.set((thread, generation));
            thread
        }
    })
}

/// Sixty-four bits that nobody can guess.
pub fn random() -> u64 {
    let mut bytes = [0u8; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(_) => return super::clock::now() ^ (u64::from(pid().unsigned_abs()) << 32),
        }
    }
    u64::from_ne_bytes(bytes)
}

/// True if the process that had this pid at a moment (in nanoseconds of [`super::clock::since_boot`]) still runs; a zombie
/// does not. Who has the pid now and was started before that moment is the one: a pid is given to one process at a time.
pub fn is_running(pid: i32, then: u64) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name of the program stands in brackets and may itself have brackets and spaces: count from the last one.
    let Some((_, rest)) = text.rsplit_once(')') else { return false };
    let mut fields = rest.split_whitespace();
    let state = fields.next().unwrap_or("X");
    let started = fields.nth(18).and_then(|field| field.parse::<u64>().ok());
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
    !matches!(state, "Z" | "X") && started.is_some_and(|ticks| ticks.saturating_mul(tick) <= then)
}

/// True if the process is stopped, or has ended.
pub fn is_stopped(pid: i32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let state = text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    matches!(state, None | Some("T" | "t" | "Z" | "X"))
}

/// Gives the calling thread a name (of a process's first thread: what `ps` and `top` show); it is cut after 15 bytes.
pub fn set_name(name: &str) {
    let mut bytes = [0u8; 16];
    for (to, from) in bytes[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the option reads at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
}

/// Makes this process the leader of a process group of its own.
pub fn lead_group() -> std::io::Result<()> {
    rustix::process::setpgid(None, None).map_err(Into::into)
}

/// A descriptor of the working directory.
pub fn directory() -> crate::Result<std::os::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| crate::Error::os("open(.)", e))
}

/// Makes the directory behind a descriptor the working directory.
pub fn enter(directory: impl std::os::fd::AsFd) -> crate::Result<()> {
    rustix::process::fchdir(directory).map_err(|e| crate::Error::os("fchdir", e))
}

/// How many descriptors this process may open.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorLimit(rustix::process::Rlimit);

impl DescriptorLimit {
    /// Raises the limit as far as the system lets everybody; gives what it was.
    pub fn raise() -> DescriptorLimit {
        let was = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let most = rustix::process::Rlimit { current: was.maximum, maximum: was.maximum };
        let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, most);
        DescriptorLimit(was)
    }

    /// Sets the limit back.
    pub fn restore(self) {
        let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, self.0);
    }
}
