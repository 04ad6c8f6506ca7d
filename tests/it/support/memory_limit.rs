//! A memory limit for a process, as a container has one. Needs Linux and the right to create a cgroup.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use super::process::through_shell;

/// A cgroup with a limit. It is removed when dropped, after its processes have ended.
#[derive(Debug)]
pub struct MemoryLimit {
    folder: PathBuf,
}

impl MemoryLimit {
    /// Limits memory, caches included, without swap. Returns `None` if no cgroup can be created.
    pub fn new(bytes: u64) -> Option<Self> {
        Self::version_1(bytes).or_else(|_| Self::version_2(bytes)).ok()
    }

    fn version_1(bytes: u64) -> io::Result<Self> {
        let limit = Self::create(Path::new("/sys/fs/cgroup/memory"))?;
        limit.write("memory.limit_in_bytes", &bytes.to_string())?;
        // Absent if the kernel does not count swap.
        let _ = limit.write("memory.memsw.limit_in_bytes", &bytes.to_string());
        Ok(limit)
    }

    fn version_2(bytes: u64) -> io::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        fs::write(root.join("cgroup.subtree_control"), "+memory")?;
        let limit = Self::create(root)?;
        limit.write("memory.max", &bytes.to_string())?;
        let _ = limit.write("memory.swap.max", "0");
        Ok(limit)
    }

    fn create(root: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("turnkey-test-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = root.join(name);
        fs::create_dir(&folder)?;
        Ok(Self { folder })
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.folder.join(file), value)
    }

    /// The command, which moves into the cgroup before it starts.
    pub fn apply_to(&self, command: &Command) -> Command {
        through_shell(command, r#"echo $$ > "$0" && exec "$@""#, self.folder.join("cgroup.procs"))
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // Fails if a process is left, and then leaves an empty group behind.
        let _ = fs::remove_dir(&self.folder);
    }
}
