//! A backup in memory, on the level of frames: mirrors one log, and can hold its answers back.

use std::collections::BTreeMap;
use std::mem::take;

use bytes::{Bytes, BytesMut};

use super::disk::{Checkpoint, Files};
use super::world::{FrameBytes, START_MS, cluster, log_number};
use crate::log::{Block, Verify};
use crate::model::{
    ENTRY_SIZE, Generation, Incarnation, LogEnd, LogNumber, NodeId, Place, RingEpoch, Seq, Slot,
    SlotRange, Term, to_u64, to_usize,
};
use crate::protocol::{
    Append, Appended, Beat, CheckpointPart, Confirmed, EntryRead, Fetch, Fetched, Frame, Granted,
    Hello, Member, MemberState, Members, Message, MoveFileAsk, MoveFilePart, MoveTold, PeerRole,
    RefusalCode, Refused, Register, SlotRun, SlotRuns, Table, TermStarts, VERSION_MAX, Welcome,
    put_member, put_slot_run, put_term_starts,
};

pub(super) const RING_KEY: u128 = 0x1234_5678;

/// What was registered, as far as tests look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) has_log: bool,
    pub(super) copy: u128,
    pub(super) end: LogEnd,
    pub(super) committed: Seq,
}

#[derive(Debug)]
pub(super) struct TestBackup {
    pub(super) files: Files,
    pub(super) term: Term,
    pub(super) generation: Generation,
    pub(super) ring_epoch: RingEpoch,
    pub(super) clock_ms: u64,
    pub(super) free_size: u64,
    pub(super) first_offset: u64,
    pub(super) checkpoint: Option<Checkpoint>,
    /// Acknowledgements are held back while set.
    pub(super) holds_acks: bool,
    /// Answers to questions for entries are held back while set.
    pub(super) holds_entries: bool,
    held_entries: Vec<FrameBytes>,
    /// Answers to beats are held back while set.
    pub(super) holds_confirms: bool,
    /// Registrations are refused with this while set.
    pub(super) refusal: Option<RefusalCode>,
    /// The node owns these slots.
    pub(super) slots: SlotRange,
    /// And these.
    pub(super) more_slots: Option<SlotRange>,
    /// Images of moves by number.
    pub(super) images: BTreeMap<u64, Bytes>,
    /// Entries of other logs.
    pub(super) entries: BTreeMap<Place, [u8; ENTRY_SIZE]>,
    /// What the node said of moves.
    pub(super) told: Vec<MoveTold>,
    /// Offsets in images that it asked for.
    pub(super) image_asks: Vec<u64>,
    pub(super) malformed: Vec<String>,
    /// Entries are no longer kept.
    pub(super) is_forgetful: bool,
    /// Appends are dropped unseen while set.
    pub(super) drops_appends: bool,
    pub(super) registered: Vec<Registered>,
    /// It is made again, as this generation.
    pub(super) recovers: Option<Generation>,
    /// Generations that the node has recorded, and the members that it knows.
    pub(super) recorded: Vec<(Generation, Vec<u32>)>,
    /// Kinds of what the node gave.
    pub(super) given: Vec<&'static str>,
    pub(super) beats: Vec<Beat>,
    /// Term of the message, term of the block, block.
    pub(super) appends: Vec<(Term, Term, Seq)>,
    pub(super) held_beats: Vec<Beat>,
    pub(super) entry_ask_count: u32,
    is_ack_due: bool,
    present: Option<Incarnation>,
    greeted: Option<Incarnation>,
    copy: u128,
    later: Vec<FrameBytes>,
}

fn written(message: &Message<'_>, request: u64) -> FrameBytes {
    let mut bytes = BytesMut::new();
    message.write_for(&mut bytes, request);
    bytes
}

impl TestBackup {
    pub(super) fn new() -> Self {
        Self {
            files: Files::default(),
            term: Term(0),
            generation: Generation(1),
            ring_epoch: RingEpoch(1),
            clock_ms: START_MS,
            free_size: u64::MAX,
            first_offset: 0,
            checkpoint: None,
            holds_acks: false,
            holds_entries: false,
            held_entries: Vec::new(),
            holds_confirms: false,
            refusal: None,
            slots: SlotRange {
                first: Slot(0),
                last: Slot(u16::MAX),
            },
            more_slots: None,
            images: BTreeMap::new(),
            entries: BTreeMap::new(),
            told: Vec::new(),
            image_asks: Vec::new(),
            malformed: Vec::new(),
            is_forgetful: false,
            drops_appends: false,
            registered: Vec::new(),
            recovers: None,
            recorded: Vec::new(),
            given: Vec::new(),
            beats: Vec::new(),
            appends: Vec::new(),
            held_beats: Vec::new(),
            entry_ask_count: 0,
            is_ack_due: false,
            present: None,
            greeted: None,
            copy: 0,
            later: Vec::new(),
        }
    }

    pub(super) fn end(&self) -> LogEnd {
        self.files.end()
    }

    pub(super) fn crash_of_node(&mut self) {
        self.later.clear();
        self.held_beats.clear();
        self.is_ack_due = false;
        self.holds_acks = false;
        self.holds_confirms = false;
    }

    /// Sends something of its own accord.
    pub(super) fn say(&mut self, message: &Message<'_>) {
        self.later.push(written(message, 0));
    }

    pub(super) fn release_acks(&mut self) {
        self.holds_acks = false;
        if take(&mut self.is_ack_due) {
            let ack = self.ack();
            self.later.push(ack);
        }
    }

    pub(super) fn release_entries(&mut self) {
        self.holds_entries = false;
        self.later.append(&mut self.held_entries);
    }

    pub(super) fn release_confirms(&mut self) {
        self.holds_confirms = false;
        for beat in take(&mut self.held_beats) {
            let confirmed = self.confirmed(&beat);
            self.later.push(confirmed);
        }
    }

    /// What it sends without being asked.
    pub(super) fn released(&mut self) -> Vec<FrameBytes> {
        take(&mut self.later)
    }

    pub(super) fn take(&mut self, frame: &Frame<'_>) -> Vec<FrameBytes> {
        let request = frame.header.request;
        match Message::read(frame).unwrap() {
            Message::Hello(hello) => vec![self.welcome(&hello)],
            Message::Register(register) => vec![self.register(&register)],
            Message::Follow => vec![self.table()],
            Message::Append(append) => self.append(&append),
            Message::Beat(beat) => {
                self.beats.push(beat);
                if self.holds_confirms {
                    self.held_beats.push(beat);
                    return Vec::new();
                }
                vec![self.confirmed(&beat)]
            }
            Message::Fetch(fetch) => vec![self.fetched(&fetch)],
            Message::CheckpointAsk(ask) => vec![self.part(&ask)],
            Message::EntryAsk { place } => {
                self.entry_ask_count += 1;
                let kept = if place.log() == Some(log_number()) {
                    self.files.entry(place).filter(|_| !self.is_forgetful)
                } else {
                    self.entries.get(&place).copied()
                };
                let read = EntryRead { place, entry: kept };
                let answer = written(&Message::EntryRead(read), request);
                if self.holds_entries {
                    self.held_entries.push(answer);
                    return Vec::new();
                }
                vec![answer]
            }
            Message::Recorded(recorded) => {
                assert_eq!(recorded.ring_key, RING_KEY);
                assert_eq!(recorded.segment_size, super::SEGMENT_SIZE);
                let members = recorded.members.iter();
                let members = members.map(|node| node.unwrap().get()).collect();
                self.recorded.push((recorded.generation, members));
                Vec::new()
            }
            message @ (Message::Fetched(_)
            | Message::CheckpointPart(_)
            | Message::MoveFilePart(_)) => {
                self.given.push(message.kind().name());
                Vec::new()
            }
            Message::MoveTold(told) => {
                assert!(told.seq <= self.end().seq, "it says what is not here");
                self.told.push(told);
                Vec::new()
            }
            Message::MoveFileAsk(ask) => {
                self.image_asks.push(ask.offset);
                vec![self.image_part(&ask)]
            }
            Message::Refused(refused) => {
                let as_expected = [
                    RefusalCode::Malformed,
                    RefusalCode::WrongLog,
                    RefusalCode::TooManyFrames,
                ];
                // What a fuzzer lets a backup say that no backup says to a node.
                let not_due =
                    refused.code == RefusalCode::Unexpected && refused.text.ends_with("is not due");
                let is_expected = not_due || as_expected.contains(&refused.code);
                assert!(is_expected, "{}", refused.text);
                self.malformed.push(refused.text.to_owned());
                Vec::new()
            }
            other => panic!("a backup is not told {other:?}"),
        }
    }

    fn welcome(&mut self, hello: &Hello) -> FrameBytes {
        self.greeted = Some(hello.incarnation);
        assert_eq!(hello.role, PeerRole::Node);
        let welcome = Welcome {
            version: VERSION_MAX,
            role: PeerRole::Backup,
            cluster: cluster(),
            time_ms: self.clock_ms,
            frame_size_max: crate::limits::LINK_FRAME_SIZE_MAX,
            batch_count_max: crate::limits::BATCH_COUNT_MAX,
            deadline_ms_max: crate::limits::DEADLINE_MS_MAX,
            frames_in_flight_max: 1,
        };
        written(&Message::Welcome(welcome), 0)
    }

    pub(super) fn refused(code: RefusalCode) -> FrameBytes {
        let refused = Refused {
            code,
            version_min: 1,
            version_max: 1,
            text: "of the test",
        };
        written(&Message::Refused(refused), 0)
    }

    fn register(&mut self, register: &Register<'_>) -> FrameBytes {
        self.registered.push(Registered {
            has_log: register.log.is_some(),
            copy: register.copy,
            end: register.end,
            committed: register.committed,
        });
        if let Some(code) = self.refusal {
            return Self::refused(code);
        }
        if let Some(generation) = self.recovers {
            return written(&Message::Recover { generation }, 0);
        }
        if self.present != self.greeted {
            self.present = self.greeted;
            self.term = self.term.next();
            self.copy += 1;
        }
        let mut terms = BytesMut::new();
        put_term_starts(&mut terms, &self.files.terms());
        let checkpoint_size = self
            .checkpoint
            .as_ref()
            .map_or(0, |checkpoint| to_u64(checkpoint.to_bytes().len()));
        let granted = Granted {
            log: log_number(),
            term: self.term,
            generation: self.generation,
            ring_epoch: self.ring_epoch,
            ring_key: RING_KEY,
            copy: self.copy,
            end: self.end(),
            first_offset: self.first_offset,
            checkpoint_size,
            segment_size: super::SEGMENT_SIZE,
            clock_ms: self.clock_ms,
            terms: TermStarts::new(&terms).unwrap(),
        };
        written(&Message::Granted(granted), 0)
    }

    pub(super) fn table(&self) -> FrameBytes {
        let mut members = BytesMut::new();
        for number in [1, 4] {
            let member = Member {
                node: NodeId::new(number).unwrap(),
                log: LogNumber::new(u16::try_from(number).unwrap()).unwrap(),
                state: MemberState::Away,
                term: Term(0),
                incarnation: 0,
                address: None,
            };
            put_member(&mut members, &member);
        }
        let mut runs = BytesMut::new();
        let node = NodeId::new(1).unwrap().get();
        let slots = self.slots;
        put_slot_run(&mut runs, &SlotRun { slots, node });
        if let Some(slots) = self.more_slots {
            put_slot_run(&mut runs, &SlotRun { slots, node });
        }
        let table = Table {
            ring_epoch: self.ring_epoch,
            generation: self.generation,
            ring_key: RING_KEY,
            members: Members::new(&members).unwrap(),
            runs: SlotRuns::new(&runs).unwrap(),
        };
        written(&Message::Table(table), 0)
    }

    pub(super) fn tell_table(&mut self) {
        let table = self.table();
        self.later.push(table);
    }

    fn append(&mut self, append: &Append<'_>) -> Vec<FrameBytes> {
        assert_eq!(append.term, self.term);
        if self.drops_appends {
            return Vec::new();
        }
        let verify = Verify {
            log: log_number(),
            cluster: cluster(),
            segment_size: super::SEGMENT_SIZE,
        };
        let block = Block::read(append.block, &verify).unwrap().unwrap();
        let end = block.end();
        self.appends.push((append.term, end.term, end.seq));
        if self.end().seq.next() < end.seq {
            let (log, end) = (log_number(), self.end());
            return vec![written(&Message::Resend { log, end }, 0)];
        }
        if self.end().seq < end.seq {
            block.follows(&self.end(), super::SEGMENT_SIZE).unwrap();
            let bytes = Bytes::copy_from_slice(append.block);
            self.files.begin = Some(self.files.begin.unwrap_or_default());
            self.files.blocks.push((end, bytes));
        }
        if self.holds_acks {
            self.is_ack_due = true;
            return Vec::new();
        }
        vec![self.ack()]
    }

    fn ack(&self) -> FrameBytes {
        let appended = Appended {
            log: log_number(),
            term: self.term,
            through: self.end().seq,
            clock_ms: self.clock_ms,
            free_size: self.free_size,
        };
        written(&Message::Appended(appended), 0)
    }

    fn confirmed(&self, beat: &Beat) -> FrameBytes {
        let confirmed = Confirmed {
            nonce: beat.nonce,
            term: self.term,
            clock_ms: self.clock_ms,
            free_size: self.free_size,
        };
        written(&Message::Confirmed(confirmed), 0)
    }

    fn fetched(&self, fetch: &Fetch) -> FrameBytes {
        let size_max = fetch.size_max.min(4_096);
        let (offset, blocks) = self.files.read(fetch.offset, size_max, super::SEGMENT_SIZE);
        let fetched = Fetched {
            log: log_number(),
            offset,
            blocks: &blocks,
        };
        written(&Message::Fetched(fetched), 0)
    }

    fn image_part(&self, ask: &MoveFileAsk) -> FrameBytes {
        let image = self.images.get(&ask.image.0).cloned().unwrap_or_default();
        let from = to_usize(ask.offset).min(image.len());
        let part = MoveFilePart {
            image: ask.image,
            size: to_u64(image.len()),
            offset: ask.offset,
            bytes: &image[from..image.len().min(from + 1_000)],
        };
        written(&Message::MoveFilePart(part), 0)
    }

    fn part(&self, ask: &Fetch) -> FrameBytes {
        let bytes = self.checkpoint.as_ref().unwrap().to_bytes();
        let from = to_usize(ask.offset).min(bytes.len());
        let part = CheckpointPart {
            log: log_number(),
            size: to_u64(bytes.len()),
            offset: ask.offset,
            bytes: &bytes[from..bytes.len().min(from + 1_000)],
        };
        written(&Message::CheckpointPart(part), 0)
    }
}
