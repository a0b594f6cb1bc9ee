//! One daemon as a child process: started, listened to, stopped or killed by its process id.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Why a daemon did not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system did not start it.
    #[error("cannot start {name}: {error}")]
    Spawn {
        /// Which daemon.
        name: String,
        /// What the system said.
        error: io::Error,
    },
    /// It ended before it was ready.
    #[error("{name} ended before it was ready; its last words: {words}")]
    Ended {
        /// Which daemon.
        name: String,
        /// The last line of its log.
        words: String,
    },
    /// It did not get ready in time.
    #[error("{name} was not ready after {seconds} s; its last words: {words}")]
    TooSlow {
        /// Which daemon.
        name: String,
        /// How long was waited.
        seconds: u64,
        /// The last line of its log.
        words: String,
    },
}

/// One line that a daemon prints on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Listening(SocketAddr),
    Ready,
}

/// A running daemon. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    signs: Receiver<Sign>,
    log: PathBuf,
    address: SocketAddr,
}

impl Process {
    /// Starts `binary` with `arguments` and waits until its port is bound. Its standard error
    /// goes to `log`.
    pub fn start(
        name: &str,
        binary: &Path,
        arguments: &[String],
        log: &Path,
        patience: Duration,
    ) -> Result<Self, StartError> {
        let spawned = spawn(binary, arguments, log);
        let mut child = spawned.map_err(|error| StartError::Spawn {
            name: name.to_owned(),
            error,
        })?;
        let (send, signs) = channel();
        if let Some(stdout) = child.stdout.take() {
            // The thread ends with the child's standard output.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    let Ok(line) = line else { return };
                    if let Some(sign) = read_sign(&line)
                        && send.send(sign).is_err()
                    {
                        return;
                    }
                }
            });
        }
        let unbound = SocketAddr::from(([127, 0, 0, 1], 0));
        let log = log.to_owned();
        let mut process = Self {
            name: name.to_owned(),
            child,
            signs,
            log,
            address: unbound,
        };
        loop {
            match process.next_sign(patience)? {
                Sign::Listening(address) => {
                    process.address = address;
                    return Ok(process);
                }
                Sign::Ready => (),
            }
        }
    }

    /// Has the daemon said that it serves, since it was last asked?
    pub fn is_ready(&mut self) -> Result<bool, StartError> {
        loop {
            match self.signs.try_recv() {
                Ok(Sign::Ready) => return Ok(true),
                Ok(Sign::Listening(_)) => (),
                Err(TryRecvError::Empty) => return Ok(false),
                Err(TryRecvError::Disconnected) => {
                    let (name, words) = (self.name.clone(), self.last_words());
                    return Err(StartError::Ended { name, words });
                }
            }
        }
    }

    /// Waits until the daemon says that it serves.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<(), StartError> {
        loop {
            if self.next_sign(patience)? == Sign::Ready {
                return Ok(());
            }
        }
    }

    fn next_sign(&mut self, patience: Duration) -> Result<Sign, StartError> {
        self.signs.recv_timeout(patience).map_err(|error| {
            let (name, words) = (self.name.clone(), self.last_words());
            match error {
                RecvTimeoutError::Timeout => StartError::TooSlow {
                    name,
                    seconds: patience.as_secs(),
                    words,
                },
                RecvTimeoutError::Disconnected => StartError::Ended { name, words },
            }
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last line of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().next_back().unwrap_or("(none)").to_owned()
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// SIGTERM: the daemon drains and ends.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let number = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        let pid = Pid::from_raw(number).ok_or_else(|| io::Error::other("process id 0"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for its end; after `patience` it is killed. The exit code, if it ended by itself.
    pub fn wait(&mut self, patience: Duration) -> io::Result<Option<i32>> {
        // Its standard output ends with it, and the reader's channel with that.
        loop {
            match self.signs.recv_timeout(patience) {
                Ok(_) => (),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.kill()?;
                    return Ok(None);
                }
            }
        }
        Ok(self.child.wait()?.code())
    }

    /// Has it ended? Its exit code (-1 where a signal ended it).
    pub fn ended(&mut self) -> io::Result<Option<i32>> {
        Ok(self
            .child
            .try_wait()?
            .map(|status| status.code().unwrap_or(-1)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.kill());
        }
    }
}

fn spawn(binary: &Path, arguments: &[String], log: &Path) -> io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    Command::new(binary)
        .args(arguments)
        .arg("--end-with-parent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        // Ctrl-C reaches the parent alone, which then stops its daemons in the right order.
        .process_group(0)
        .spawn()
}

fn read_sign(line: &str) -> Option<Sign> {
    if line == "ready" {
        return Some(Sign::Ready);
    }
    line.strip_prefix("listening on ")?
        .parse()
        .ok()
        .map(Sign::Listening)
}
