//! Pipes: send and receive, room, bells, descriptors, and the end.

use crate::queues::item_in;
use polyproc_engine::channel::{Envelope, Parcel, PipeEnd, pipe};
use polyproc_engine::sys::poll::{self, Polled};
use polyproc_engine::{Deadline, Error};
use polyproc_testkit::item::Item;
use polyproc_testkit::ledger::Ledger;
use polyproc_testkit::trial::{Fate, Role, Scenario, Stage, Trial, soon};
use std::cell::{Ref, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;

/// How many of its operations the victim has seen return.
const ACKNOWLEDGED: usize = 0;
/// What a survivor has received.
const SURVIVOR_GOT: usize = 1;

const PARENT: u32 = 0;
const VICTIM: u32 = 1;

/// An end that its process can close, though others of the trial still name it.
#[derive(Clone)]
struct End(Rc<RefCell<Option<PipeEnd>>>);

impl End {
    fn pair(duplex: bool) -> (End, End) {
        let (first, second) = pipe(duplex).unwrap();
        (End(Rc::new(RefCell::new(Some(first)))), End(Rc::new(RefCell::new(Some(second)))))
    }

    fn get(&self) -> Ref<'_, PipeEnd> {
        Ref::map(self.0.borrow(), |end| end.as_ref().unwrap())
    }

    fn close(&self) {
        self.0.borrow_mut().take();
    }

    fn send(&self, item: Item, size: usize, deadline: Deadline) {
        self.get().send(&mut Parcel::new(0, &item.bytes(size)).unwrap(), deadline).unwrap();
    }

    fn receive(&self, deadline: Deadline) -> Item {
        let mut envelope = Envelope::new();
        self.get().receive(&mut envelope, deadline).unwrap();
        item_in(&envelope)
    }

    fn is_readable(&self, deadline: Deadline) -> bool {
        poll::wait(&mut [Polled::new(self.get().fd())], deadline).unwrap() == 1
    }
}

/// What came of the victim's, up to the parent's item.
fn drain(reads: &End) -> u64 {
    let mut came = 0;
    loop {
        let item = reads.receive(soon());
        if item.producer == PARENT {
            return came;
        }
        came += 1;
        assert_eq!(item, Item::new(VICTIM, came as u32));
    }
}

fn check(came: u64, ledger: Ledger) {
    let acknowledged = ledger.get(ACKNOWLEDGED);
    assert!(came == acknowledged || came == acknowledged + 1, "{acknowledged} acknowledged, {came} came");
}

fn check_end(stage: &mut Stage, reads: &End, writes: &End) {
    stage.sweep();
    writes.close();
    assert!(matches!(reads.get().receive(&mut Envelope::new(), soon()), Err(Error::EndOfFile)));
}

fn sending(ledger: Ledger, size: usize, asleep: bool) -> Trial {
    let (reads, writes) = End::pair(false);
    let (its_end, for_survivor, for_parent) = (writes.clone(), reads.clone(), writes.clone());
    let victim = move || {
        for number in 1..=3 {
            its_end.send(Item::new(VICTIM, number), size, soon());
            ledger.set(ACKNOWLEDGED, u64::from(number));
        }
    };
    if !asleep {
        return Trial::new(victim, move |stage, _| {
            writes.send(Item::new(PARENT, 1), 0, soon());
            check(drain(&reads), ledger);
            check_end(stage, &reads, &writes);
        });
    }
    Trial::new(victim, move |stage, _| {
        // What was acknowledged comes without anybody's help.
        let deadline = soon();
        while ledger.get(SURVIVOR_GOT) < ledger.get(ACKNOWLEDGED) {
            assert!(!deadline.passed(), "what was sent does not come");
            std::thread::yield_now();
        }
        for_parent.send(Item::new(PARENT, 1), 0, soon());
        stage.join_beside();
        check(ledger.get(SURVIVOR_GOT), ledger);
        check_end(stage, &reads, &for_parent);
    })
    .asleep(move || {
        loop {
            let item = for_survivor.receive(Deadline::Never);
            if item.producer == PARENT {
                return;
            }
            assert_eq!(u64::from(item.number), ledger.add(SURVIVOR_GOT, 1) + 1);
        }
    })
}

/// The pipe is full and the victim sleeps; the parent receives everything.
fn waiting_for_room(ledger: Ledger) -> Trial {
    let (reads, writes) = End::pair(false);
    let (its_end, for_parent) = (writes.clone(), reads.clone());
    let victim = move || {
        for number in 1..=6 {
            its_end.send(Item::new(VICTIM, number), 50_000, Deadline::Never);
            ledger.set(ACKNOWLEDGED, u64::from(number));
        }
    };
    let came = Rc::new(RefCell::new(0));
    let came_meanwhile = came.clone();
    Trial::new(victim, move |stage, _| {
        writes.send(Item::new(PARENT, 1), 0, soon());
        let mut more = *came.borrow();
        loop {
            let item = reads.receive(soon());
            if item.producer == PARENT {
                break;
            }
            more += 1;
            assert_eq!(item, Item::new(VICTIM, more as u32));
        }
        check(more, ledger);
        check_end(stage, &reads, &writes);
    })
    .meanwhile(move |stage| {
        // As long as the victim lives there comes one after the other.
        while *came_meanwhile.borrow() < 6 {
            if !stage.until_asleep() && !for_parent.get().poll(Deadline::Now).unwrap() {
                break;
            }
            match for_parent.get().poll(Deadline::after(Some(std::time::Duration::from_millis(200)))) {
                Ok(true) => {
                    *came_meanwhile.borrow_mut() += 1;
                    let number = *came_meanwhile.borrow() as u32;
                    assert_eq!(for_parent.receive(soon()), Item::new(VICTIM, number));
                }
                Ok(false) => {}
                Err(error) => panic!("{error}"),
            }
        }
    })
}

/// The victim receives two of four; the rest is the parent's.
fn receiving(ledger: Ledger, size: usize, armed: bool) -> Trial {
    let (reads, writes) = End::pair(true);
    if armed {
        reads.get().fd();
    }
    for number in 1..=4 {
        writes.send(Item::new(PARENT, number), size, soon());
    }
    let its_end = reads.clone();
    let victim = move || {
        for number in 1..=2 {
            if armed {
                assert!(its_end.is_readable(soon()));
            }
            assert_eq!(its_end.receive(soon()), Item::new(PARENT, number));
            ledger.set(ACKNOWLEDGED, u64::from(number));
        }
    };
    Trial::new(victim, move |_, fate| {
        let taken = ledger.get(ACKNOWLEDGED) as u32;
        let first = reads.receive(soon()).number;
        assert!(first == taken + 1 || (fate == Fate::Died && first == taken + 2), "{taken} taken, then came {first}");
        for number in first + 1..=4 {
            assert!(!armed || reads.is_readable(soon()));
            assert_eq!(reads.receive(soon()), Item::new(PARENT, number));
        }
        if armed {
            assert!(!reads.is_readable(Deadline::Now), "readable, and nothing is there");
            writes.send(Item::new(PARENT, 5), size, soon());
            assert!(reads.is_readable(soon()), "not readable, and something is there");
            assert_eq!(reads.receive(soon()), Item::new(PARENT, 5));
        }
    })
}

/// The victim takes the last message of a watched pipe out, and with it the bells.
fn emptying(ledger: Ledger) -> Trial {
    let (reads, writes) = End::pair(false);
    reads.get().fd();
    for number in 1..=2 {
        writes.send(Item::new(PARENT, number), 0, soon());
    }
    let its_end = reads.clone();
    let victim = move || {
        for number in 1..=2 {
            assert_eq!(its_end.receive(soon()), Item::new(PARENT, number));
            ledger.set(ACKNOWLEDGED, u64::from(number));
        }
    };
    Trial::new(victim, move |_, fate| {
        writes.send(Item::new(PARENT, 3), 0, soon());
        assert!(reads.is_readable(soon()), "a message is there, and the descriptor is silent");
        let taken = ledger.get(ACKNOWLEDGED) as u32;
        let first = reads.receive(soon()).number;
        assert!(first == taken + 1 || (fate == Fate::Died && first == taken + 2), "{taken} taken, then came {first}");
        for number in first + 1..=3 {
            assert!(reads.is_readable(soon()), "a message is there, and the descriptor is silent");
            assert_eq!(reads.receive(soon()), Item::new(PARENT, number));
        }
    })
}

/// The victim sleeps in receive, and another on the same end; the parent sends one for each.
fn waiting_for_items(ledger: Ledger, armed: bool) -> Trial {
    let (reads, writes) = End::pair(false);
    if armed {
        reads.get().fd();
    }
    let receiver = |place| {
        let reads = reads.clone();
        move || ledger.set(place, u64::from(reads.receive(Deadline::Never).number))
    };
    let (victim, survivor, kept) = (receiver(ACKNOWLEDGED), receiver(SURVIVOR_GOT), writes.clone());
    Trial::new(victim, move |stage, fate| {
        stage.join_beside();
        let (victim, survivor) = (ledger.get(ACKNOWLEDGED), ledger.get(SURVIVOR_GOT));
        assert!(survivor != 0 && survivor != victim);
        assert!(fate == Fate::Died || victim != 0);
        if reads.get().poll(Deadline::Now).unwrap() {
            assert_eq!(u64::from(reads.receive(soon()).number), 3 - survivor);
        }
        drop(kept);
    })
    .meanwhile(move |stage| {
        stage.until_asleep();
        stage.add_asleep(survivor);
        writes.send(Item::new(PARENT, 1), 0, soon());
        writes.send(Item::new(PARENT, 2), 0, soon());
    })
}

/// A reader that watches only the descriptor: another writer's message makes it readable.
fn sending_to_a_watcher(ledger: Ledger) -> Trial {
    let (reads, writes) = End::pair(false);
    reads.get().fd();
    let its_end = writes.clone();
    let victim = move || {
        its_end.send(Item::new(VICTIM, 1), 0, soon());
        ledger.set(ACKNOWLEDGED, 1);
    };
    Trial::new(victim, move |stage, _| {
        stage.sweep();
        assert!(ledger.get(ACKNOWLEDGED) == 0 || reads.is_readable(soon()), "acknowledged, and not readable");
        writes.send(Item::new(PARENT, 1), 0, soon());
        assert!(reads.is_readable(soon()), "a message is there, and the descriptor is silent");
        check(drain(&reads), ledger);
        assert!(!reads.is_readable(Deadline::Now), "readable, and nothing is there");
        check_end(stage, &reads, &writes);
    })
}

/// Descriptors travel with messages.
fn descriptors(ledger: Ledger, receiver_dies: bool) -> Trial {
    let (reads, writes) = End::pair(false);
    let send = |end: &End| end.get().send_descriptor(std::fs::File::open("/dev/null").unwrap().as_fd()).unwrap();
    if receiver_dies {
        send(&writes);
        let its_end = reads.clone();
        let victim = move || {
            its_end.get().receive_descriptor(soon()).unwrap();
            ledger.set(ACKNOWLEDGED, 1);
        };
        return Trial::new(victim, move |stage, _| {
            stage.sweep();
            reads.close();
            let sent = writes.get().send(&mut Parcel::new(0, b"x").unwrap(), soon());
            assert!(matches!(sent, Err(Error::BrokenPipe)), "{sent:?}");
        });
    }
    let its_end = writes.clone();
    let victim = move || {
        send(&its_end);
        ledger.set(ACKNOWLEDGED, 1);
    };
    Trial::new(victim, move |stage, _| {
        stage.sweep();
        writes.close();
        match reads.get().receive_descriptor(soon()) {
            Ok(_) => {}
            Err(error) => assert!(ledger.get(ACKNOWLEDGED) == 0, "{error}"),
        }
    })
}

/// A sender sleeps on a full pipe whose only reader dies.
fn reader_of_a_full_pipe(ledger: Ledger) -> Trial {
    let (reads, writes) = End::pair(false);
    let (its_end, for_survivor, not_its_end) = (reads.clone(), writes.clone(), reads.clone());
    let victim = move || {
        its_end.receive(soon());
        ledger.add(ACKNOWLEDGED, 1);
    };
    for number in 1..=2 {
        writes.send(Item::new(PARENT, number), 50_000, soon());
    }
    Trial::new(victim, move |stage, _| {
        reads.close();
        stage.join_beside();
    })
    .asleep(move || {
        not_its_end.close();
        for number in 1.. {
            let item = Item::new(2, number).bytes(50_000);
            match for_survivor.get().send(&mut Parcel::new(0, &item).unwrap(), Deadline::Never) {
                Ok(()) => assert!(number < 10),
                Err(error) => return assert!(matches!(error, Error::BrokenPipe), "{error}"),
            }
        }
    })
}

pub fn scenarios() -> Vec<Scenario> {
    use Role::{Holder, Peer, Waiter};
    vec![
        Scenario::new("pipe: send small messages", Holder, |l| sending(l, 0, false)),
        Scenario::new("pipe: send large messages", Holder, |l| sending(l, 100_000, false)),
        Scenario::new("pipe: send, a receiver asleep", Holder, |l| sending(l, 0, true)),
        Scenario::new("pipe: send, asleep for room", Waiter, waiting_for_room),
        Scenario::new("pipe: send to a watcher", Holder, sending_to_a_watcher),
        Scenario::new("pipe: receive small messages", Peer, |l| receiving(l, 0, false)),
        Scenario::new("pipe: receive large messages", Peer, |l| receiving(l, 100_000, false)),
        Scenario::new("pipe: receive, watching", Peer, |l| receiving(l, 0, true)),
        Scenario::new("pipe: receive the last, watching", Peer, emptying),
        Scenario::new("pipe: receive, asleep", Waiter, |l| waiting_for_items(l, false)),
        Scenario::new("pipe: receive, asleep and watched", Waiter, |l| waiting_for_items(l, true)),
        Scenario::new("pipe: send a descriptor", Holder, |l| descriptors(l, false)),
        Scenario::new("pipe: receive a descriptor", Peer, |l| descriptors(l, true)),
        Scenario::new("pipe: the last reader, a sender asleep", Peer, reader_of_a_full_pipe),
    ]
}
