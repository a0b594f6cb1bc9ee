//! The process's signals as events of the loop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::{Interest, Registry, Token};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::unregister;
use signal_hook_mio::v1_0::Signals as Pipe;

/// What a shell expects of a process that ended by SIGINT.
const INTERRUPTED: i32 = 130;

/// Remembers for the rest of the process that SIGTERM or SIGINT came: for a process whose loops
/// follow each other, so that none falls between two of them.
#[derive(Clone, Debug)]
pub struct StopMark(Arc<AtomicBool>);

impl StopMark {
    /// From here on.
    pub fn new() -> io::Result<Self> {
        let mark = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            flag::register(signal, Arc::clone(&mark))?;
        }
        Ok(Self(mark))
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Takes SIGTERM and SIGINT for as long as it lives.
pub(super) struct SignalSource {
    pipe: Pipe,
    interrupt_actions: [SigId; 2],
}

impl SignalSource {
    /// A first SIGINT asks; a second one ends the process at once, even if the loop hangs.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        // In this order: the first signal must not see its own mark.
        let end =
            flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&interrupted))?;
        let mark = flag::register(SIGINT, interrupted)?;
        let mut pipe = Pipe::new([SIGTERM, SIGINT])?;
        registry.register(&mut pipe, token, Interest::READABLE)?;
        Ok(Self {
            pipe,
            interrupt_actions: [end, mark],
        })
    }

    /// Whether one came since the last call.
    pub(super) fn take(&mut self) -> bool {
        0 < self.pipe.pending().count()
    }
}

impl Drop for SignalSource {
    fn drop(&mut self) {
        for action in self.interrupt_actions {
            unregister(action);
        }
    }
}
