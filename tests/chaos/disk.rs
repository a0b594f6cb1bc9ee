//! A disk of the test's own: ext4 in a file, on a loop device. It can lose its power, and it can
//! be full. Unmounted whatever becomes of the test.

use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::host::{text, tool};

/// `FS_IOC_SHUTDOWN` with "no flush of the journal": what was not synced is gone.
const SHUTDOWN: &str = r#"open(my $dir, "<", $ARGV[0]) or die "open: $!";
my $how = pack("L", 2);
ioctl($dir, 0x8004587d, $how) or die "ioctl: $!";"#;

/// Room that others may take, and the file system for itself, while a file is made.
const SLACK: u64 = 4 << 20;

/// What a test with disks needs.
pub(crate) const TOOLS: [&str; 4] = ["mkfs.ext4", "mount", "umount", "perl"];

#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// Makes a disk of so many MiB (a sparse file) in `folder` and mounts it. The error is why
    /// this host has none.
    pub(crate) fn make(folder: &Path, name: &str, size_mib: u64) -> Result<Self, String> {
        let image = folder.join(format!("{name}.img"));
        let mount = folder.join(format!("{name}.disk"));
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(size_mib << 20)
            .map_err(|error| error.to_string())?;
        std::fs::create_dir(&mount).map_err(|error| error.to_string())?;
        let eager = "lazy_itable_init=0,lazy_journal_init=0";
        // Without the share that only root may fill: the daemons may run as root here.
        tool(
            "mkfs.ext4",
            &["-q", "-F", "-m", "0", "-E", eager, &text(&image)],
        )?;
        let mut disk = Self {
            image,
            mount,
            is_mounted: false,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Where a data folder can be.
    pub(crate) fn folder(&self) -> PathBuf {
        self.mount.join("data")
    }

    /// The power goes: what was not synced never reached the disk, and nothing will any more.
    pub(crate) fn cut_power(&self) {
        // The proof that this takes something away: it was written, and not synced.
        std::fs::write(self.control(), [1; 4_096]).expect("a file can be written");
        tool("perl", &["-e", SHUTDOWN, &text(&self.mount)]).expect("the disk can be shut down");
    }

    /// The power is back. Nobody may have a file open.
    pub(crate) fn restore_power(&mut self) {
        self.unmount().expect("nobody uses the disk");
        self.mount().expect("the disk can be mounted again");
        let kept = std::fs::read(self.control()).unwrap_or_default();
        assert!(kept.is_empty(), "the power cut took nothing away");
    }

    fn control(&self) -> PathBuf {
        self.mount.join("control")
    }

    fn mount(&mut self) -> Result<(), String> {
        tool(
            "mount",
            &["-o", "loop", &text(&self.image), &text(&self.mount)],
        )?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        tool("umount", &[&text(&self.mount)])?;
        self.is_mounted = false;
        Ok(())
    }

    /// Bytes that are free.
    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mount).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all room but so many bytes; 0: to the last one.
    pub(crate) fn fill(&self, leave: u64) {
        let path = self.mount.join("ballast");
        let mut file = std::fs::File::create(path).expect("a file can be made");
        let size = self.free().saturating_sub(leave.max(SLACK));
        let taken = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size);
        taken.expect("there is so much room");
        if leave != 0 {
            return;
        }
        file.seek(SeekFrom::End(0)).expect("a file has an end");
        for piece in [vec![1; 64 << 10], vec![1; 4 << 10]] {
            let error = loop {
                if let Err(error) = file.write_all(&piece).and_then(|()| file.sync_data()) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }

    /// Gives it back.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.mount.join("ballast")).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a daemon of a failed test may still run.
        if self.is_mounted && tool("umount", &["-l", &text(&self.mount)]).is_err() {
            crate::host::say(&format!("left behind: {}", self.mount.display()));
        }
    }
}
