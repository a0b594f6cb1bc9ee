//! Requests, slow disks, lost links, lies, deaths, wiped and restored folders. Whatever happens:
//! an id has one outcome, what was acknowledged is never lost, and no answer is early.

use super::backup::TestBackup;
use super::clients::{Clients, Reached};
use super::disk::{Files, TestDisk};
use super::world::{World, log_number, options};
use crate::model::{Choices, LogEnd, Seq, Term, to_usize};
use crate::protocol::fuzzing::frame_of;
use crate::protocol::{Appended, Confirmed, FrameKind, Message, RefusalCode, split};
use crate::role::{DiskFault, Input, Link, PeerId};

/// Events of one list at most.
const EVENT_COUNT_MAX: u64 = 200;

/// Time that one list may let pass.
const PASS_MS_MAX: u64 = 15_000;

/// Further ahead than a node comes in one list of events.
const SEQ_LIE_MIN: u64 = 1 << 20;

/// Connections of strangers have numbers from here on.
const STRANGER_FIRST: u64 = 1_000_000;

/// The bytes are a list of events.
pub fn check_events(bytes: &[u8]) {
    let mut run = Run::new(bytes);
    let mut count = 0;
    while !run.choices.is_empty() && count < EVENT_COUNT_MAX {
        count += 1;
        run.step();
        if run.world.exit.is_some() {
            assert!(run.may_exit, "{:?} {:?}", run.world.exit, run.world.said);
            run.restart();
        }
    }
    if run.choices.one_in(4) {
        run.meet_an_older_backup();
        return;
    }
    run.restart();
    run.clients.settle(&mut run.world);
}

struct Run<'a> {
    choices: Choices<'a>,
    world: World,
    clients: Clients,
    reached: Reached,
    /// Something happened after which a node may end.
    may_exit: bool,
    passed_ms: u64,
    stranger_count: u64,
    /// Registrations that the backup has had.
    grant_count: usize,
    /// What was on the disk, and on the backup, at some time.
    older: Option<(Files, Files)>,
}

impl<'a> Run<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut choices = Choices::new(bytes);
        let mut options = options(100);
        options.limits.parked_count_max = 3 + u32::from(choices.u8() % 8);
        let mut world = World::with(options, TestDisk::new(), TestBackup::new());
        world.serve();
        let mut run = Self {
            choices,
            world,
            clients: Clients::default(),
            reached: Reached::default(),
            may_exit: false,
            passed_ms: 0,
            stranger_count: 0,
            grant_count: 0,
            older: None,
        };
        run.measure();
        run
    }

    fn step(&mut self) {
        self.act();
        // What was held and is let go counts from now on.
        self.measure();
    }

    fn act(&mut self) {
        match self.choices.below(32) {
            0..=11 => self.clients.send(&mut self.world, &mut self.choices),
            12 => self.world.disk.holds_appends = true,
            13 => self.world.disk.release_appends_if_any(),
            14 => self.world.backup.holds_acks = true,
            15 => self.world.backup.release_acks(),
            16 => self.world.backup.holds_confirms = true,
            17 => self.world.backup.release_confirms(),
            18 => self.world.backup.drops_appends = true,
            19 => self.world.backup.drops_appends = false,
            20 => self.world.cut_link(),
            21 => {
                self.world.mend_link();
                self.rest();
            }
            22 => self.cool(),
            23 => self.pass(),
            24 => self.lie(),
            25 => self.stranger(),
            26 if self.choices.one_in(2) => self.restart(),
            27 => self.keep(),
            28 if self.choices.one_in(6) => self.fail(),
            _ => {
                let count = 1 + self.choices.below(4);
                for _ in 0..count {
                    self.turn();
                }
            }
        }
    }

    /// How far the copies are now.
    fn measure(&mut self) {
        let (disk, backup) = (&self.world.disk, &self.world.backup);
        if !disk.holds_appends {
            self.reached.durable = disk.files(|files| files.end().offset);
        }
        // A grant and a demand for a resend say what is durable there too.
        let is_granted = self.grant_count != backup.registered.len();
        self.grant_count = backup.registered.len();
        let last = backup.appends.last();
        let is_asked_again = last.is_some_and(|(_, _, seq)| backup.end().seq < *seq);
        if !backup.holds_acks || is_granted || is_asked_again {
            self.reached.acked = backup.end().offset;
            self.reached.answered.1 = backup.appends.len();
        }
        self.reached.answered.0 = backup.beats.len() - backup.held_beats.len();
    }

    /// One turn of the node: what leaves in it was decided by what was so before it.
    fn turn(&mut self) {
        self.measure();
        self.world.run_turns(1);
        self.clients.listen(&self.world, self.reached);
    }

    /// Everything that is under way arrives.
    fn rest(&mut self) {
        self.world.run();
        self.measure();
        self.clients.listen(&self.world, self.reached);
    }

    /// Entries that were written lately are read from the disk, or from the backup.
    fn cool(&mut self) {
        let is_lost = self.choices.one_in(3);
        self.world.disk.files(|files| {
            files.cold_below = files.end().offset;
            files.is_cold_lost = is_lost;
        });
    }

    fn pass(&mut self) {
        let ms = 1 + self.choices.below(3_000);
        if self.passed_ms + ms <= PASS_MS_MAX {
            self.passed_ms += ms;
            self.world.pass(ms);
            self.rest();
        }
    }

    /// The backup says what an honest one does not: nothing may be believed of it.
    fn lie(&mut self) {
        let backup = &mut self.world.backup;
        let number = self.choices.below(1 << 10);
        let term = backup.term;
        let appended = Appended {
            log: log_number(),
            term,
            through: backup.end().seq,
            clock_ms: backup.clock_ms,
            free_size: u64::MAX,
        };
        match self.choices.below(5) {
            // Of this term the backup's word is all there is to go by: only what the node cannot
            // have sent by the time it hears this is a lie to it.
            0 => backup.say(&Message::Appended(Appended {
                through: Seq(backup.end().seq.0 + SEQ_LIE_MIN + number),
                ..appended
            })),
            1 => backup.say(&Message::Appended(Appended {
                term: Term(term.0.wrapping_sub(1 + number)),
                through: Seq(backup.end().seq.0 + 1 + number),
                ..appended
            })),
            2 => backup.say(&Message::Confirmed(Confirmed {
                nonce: 1_000_000 + number,
                term,
                clock_ms: backup.clock_ms,
                free_size: 0,
            })),
            3 => backup.say(&Message::Resend {
                log: log_number(),
                end: LogEnd {
                    chain: number,
                    ..backup.end()
                },
            }),
            _ => {
                let kind = self.choices.one_of(FrameKind::ALL);
                // Of these every word is the authority's: there is nothing else to go by.
                let is_law = matches!(kind, FrameKind::Granted | FrameKind::Table);
                if is_law || matches!(kind, FrameKind::Appended | FrameKind::Confirmed) {
                    return;
                }
                let size = to_usize(self.choices.below(120));
                let bytes = frame_of(kind, self.choices.bytes(size));
                let (frame, _) = split(&bytes, u32::MAX).unwrap().unwrap();
                if let Ok(message) = Message::read(&frame) {
                    self.world.backup.say(&message);
                }
            }
        }
        self.may_exit = true;
    }

    /// Someone connects and says anything.
    fn stranger(&mut self) {
        self.stranger_count += 1;
        let peer = PeerId(STRANGER_FIRST + self.stranger_count);
        let link = Link::Cluster;
        self.world.give(Input::Opened { peer, link });
        let count = 1 + self.choices.below(4);
        for _ in 0..count {
            let kind = self.choices.one_of(FrameKind::ALL);
            let size = to_usize(self.choices.below(200));
            let bytes = frame_of(kind, self.choices.bytes(size));
            let (frame, _) = split(&bytes, u32::MAX).unwrap().unwrap();
            // Nobody would look after the answers.
            if kind != FrameKind::Request || Message::read(&frame).is_err() {
                self.world.give(Input::Frame { peer, frame });
            }
        }
    }

    /// Someone makes a copy of both folders.
    fn keep(&mut self) {
        let disk = self.world.disk.files(|files| files.clone());
        self.older = Some((disk, self.world.backup.files.clone()));
    }

    fn fail(&mut self) {
        let fault = self.choices.one_of(&[0, 1, 2]);
        let fault = match fault {
            0 => DiskFault::Poisoned,
            1 => DiskFault::NoSpace,
            _ => DiskFault::Other,
        };
        self.world.disk.append_fault = Some(fault);
        self.may_exit = true;
    }

    /// The process dies and comes again: on its folder, on an empty one, or on an older copy of
    /// it. The backup may refuse it for a while.
    fn restart(&mut self) {
        self.clients.forget_open();
        let world = std::mem::replace(&mut self.world, World::new());
        let mut world = world.restart();
        match self.choices.below(8) {
            0 => world.disk = TestDisk::new(),
            1 => {
                if let Some((older, _)) = self.older.clone() {
                    world.disk.files(|files| *files = older);
                }
            }
            _ => (),
        }
        world.disk.append_fault = None;
        world.disk.files(|files| {
            files.cold_below = 0;
            files.is_cold_lost = false;
        });
        world.backup.drops_appends = false;
        if self.choices.one_in(6) {
            world.backup.refusal = Some(RefusalCode::InUse);
            world.pass(300);
            assert!(!world.is_ready, "it serves without a term");
            world.backup.refusal = None;
            world.pass(3_000);
        }
        world.serve();
        self.world = world;
        self.may_exit = false;
        self.rest();
    }

    /// The backup's folder is replaced by an older copy: a node that knows better does not serve
    /// on it, and drops nothing.
    fn meet_an_older_backup(&mut self) {
        let Some((_, older)) = self.older.clone() else {
            return;
        };
        self.rest();
        let committed = self.reached.durable.min(self.reached.acked);
        if committed <= older.end().offset {
            return;
        }
        let world = std::mem::replace(&mut self.world, World::new());
        let mut world = world.restart();
        let before = world.disk.files(|files| files.end());
        world.backup.files = older;
        world.backup.drops_appends = false;
        for _ in 0..20 {
            world.run();
            if world.exit.is_none() {
                world.pass(100);
            }
        }
        let after = world.disk.files(|files| files.end());
        assert!(before.seq <= after.seq, "dropped what was committed");
        let back = world.backup.end().offset;
        assert!(
            !world.is_ready || committed <= back,
            "serves on an older backup"
        );
    }
}
