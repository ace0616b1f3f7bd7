//! Queues: put, get, growth, bounds, what waits on either side, and tasks that are finished.

use polyproc_engine::Deadline;
use polyproc_engine::channel::{Envelope, Parcel, Queue};
use polyproc_engine::shm::Handle;
use polyproc_engine::sync::Lock;
use polyproc_testkit::item::Item;
use polyproc_testkit::ledger::Ledger;
use polyproc_testkit::trial::{Fate, Role, Scenario, Stage, Trial, soon};
use std::cell::RefCell;
use std::rc::Rc;

/// How many of its operations the victim has seen return.
const ACKNOWLEDGED: usize = 0;
/// What the victim, and a survivor, have taken out: the number of the item.
const VICTIM_GOT: usize = 1;
const SURVIVOR_GOT: usize = 2;

const PARENT: u32 = 0;
const VICTIM: u32 = 1;
const SURVIVOR: u32 = 2;

pub fn put(queue: &Queue, item: Item, size: usize, deadline: Deadline) {
    let bytes = item.bytes(size);
    queue.put(&mut Parcel::new(0, &bytes).unwrap(), deadline).unwrap();
}

/// An item with a second copy of itself in a buffer.
fn put_with_buffer(queue: &Queue, item: Item, size: usize) {
    let bytes = item.bytes(size);
    let mut parcel = Parcel::new(1, &bytes).unwrap();
    // SAFETY: the bytes live to the end of the call.
    unsafe { parcel.add_buffer(bytes.as_ptr(), bytes.len()).unwrap() };
    queue.put(&mut parcel, soon()).unwrap();
}

/// The item in an envelope, and in all its buffers.
pub fn item_in(envelope: &Envelope) -> Item {
    // SAFETY: a body, and a lease, are valid for their length, and this process alone has them.
    let item = Item::of(unsafe { std::slice::from_raw_parts(envelope.as_ptr(), envelope.len()) });
    for lease in &envelope.buffers {
        // SAFETY: as above.
        assert_eq!(Item::of(unsafe { std::slice::from_raw_parts(lease.as_ptr(), lease.len()) }), item);
    }
    assert_eq!(envelope.buffers.len(), usize::from(envelope.kind));
    item
}

pub fn get(queue: &Queue, deadline: Deadline) -> Item {
    let mut envelope = Envelope::new();
    queue.get(&mut envelope, deadline).unwrap();
    item_in(&envelope)
}

/// Everything up to the parent's item of this number.
fn get_until(queue: &Queue, last: u32) -> Vec<Item> {
    let mut items = Vec::new();
    loop {
        items.push(get(queue, soon()));
        if *items.last().unwrap() == Item::new(PARENT, last) {
            return items;
        }
    }
}

/// What was acknowledged came, in order and once; of what was not, at most the next.
fn check_victims(items: &[Item], acknowledged: u64, fate: Fate) {
    let numbers: Vec<u32> = items.iter().filter(|item| item.producer == VICTIM).map(|item| item.number).collect();
    let expected: Vec<u32> = (1..=numbers.len() as u32).collect();
    assert_eq!(numbers, expected, "the victim's items");
    let came = numbers.len() as u64;
    assert!(came >= acknowledged, "lost: {acknowledged} acknowledged, {came} came");
    assert!(came <= acknowledged + u64::from(fate == Fate::Died), "doubled: {acknowledged} acknowledged, {came} came");
}

/// The victim puts `count` items; a consumer drains afterwards, or sleeps on the queue from the beginning.
fn putting(
    ledger: Ledger,
    most: u32,
    count: u32,
    asleep: bool,
    put_one: impl Fn(&Queue, Item) + Copy + 'static,
) -> Trial {
    let queue = Queue::new(most).unwrap();
    let consume = {
        let queue = queue.clone();
        move || get_until(&queue, 1)
    };
    let victim = {
        let queue = queue.clone();
        move || {
            for number in 1..=count {
                put_one(&queue, Item::new(VICTIM, number));
                ledger.set(ACKNOWLEDGED, u64::from(number));
            }
        }
    };
    if asleep {
        let trial = Trial::new(victim, move |stage, _| {
            put(&queue, Item::new(PARENT, 1), 0, soon());
            stage.join_beside();
            assert!(queue.is_empty());
        });
        let check = move || {
            let items = consume();
            // Died or not, one item more than was acknowledged may come: the acknowledgement is a step of its own.
            check_victims(&items, ledger.get(ACKNOWLEDGED), Fate::Died);
        };
        return trial.asleep(check);
    }
    Trial::new(victim, move |_, fate| {
        assert_eq!(u64::from(queue.len()).saturating_sub(ledger.get(ACKNOWLEDGED)) & !1, 0, "the length is wrong");
        put(&queue, Item::new(PARENT, 1), 0, soon());
        let items = consume();
        check_victims(&items, ledger.get(ACKNOWLEDGED), fate);
        assert!(queue.is_empty());
    })
}

/// A full queue; the victim sleeps in put, and another behind it. The parent makes room for one, then for both.
fn waiting_for_room(_ledger: Ledger, size: usize) -> Trial {
    let queue = Queue::new(1).unwrap();
    put(&queue, Item::new(PARENT, 1), size, soon());
    let putter = |producer| {
        let queue = queue.clone();
        move || put(&queue, Item::new(producer, 1), size, Deadline::Never)
    };
    let (victim, survivor) = (putter(VICTIM), putter(SURVIVOR));
    let got = Rc::new(RefCell::new(Vec::new()));
    let meanwhile = {
        let (queue, got) = (queue.clone(), got.clone());
        move |stage: &mut Stage| {
            stage.until_asleep();
            stage.add_asleep(survivor);
            assert_eq!(get(&queue, soon()), Item::new(PARENT, 1));
            got.borrow_mut().push(get(&queue, soon()));
        }
    };
    Trial::new(victim, move |stage, fate| {
        stage.join_beside();
        let mut got = got.borrow_mut();
        while !queue.is_empty() {
            got.push(get(&queue, soon()));
        }
        got.sort();
        let both = [Item::new(VICTIM, 1), Item::new(SURVIVOR, 1)];
        assert!(got[..] == both || (fate == Fate::Died && got[..] == both[1..]), "{got:?}");
    })
    .meanwhile(meanwhile)
}

/// The victim takes out `count` of the items that are there.
fn getting(ledger: Ledger, there: u32, count: u32, put_one: impl Fn(&Queue, Item) + 'static) -> Trial {
    let queue = Queue::new(0).unwrap();
    for number in 1..=there {
        put_one(&queue, Item::new(PARENT, number));
    }
    let victim = {
        let queue = queue.clone();
        move || {
            for number in 1..=count {
                assert_eq!(get(&queue, soon()), Item::new(PARENT, number));
                ledger.set(ACKNOWLEDGED, u64::from(number));
            }
        }
    };
    Trial::new(victim, move |_, fate| {
        let taken = ledger.get(ACKNOWLEDGED) as u32;
        let first = get(&queue, soon()).number;
        assert!(first == taken + 1 || (fate == Fate::Died && first == taken + 2), "{taken} taken, then came {first}");
        for number in first + 1..=there {
            assert_eq!(get(&queue, soon()), Item::new(PARENT, number));
        }
        assert!(queue.is_empty());
    })
}

/// The victim sleeps in get, another behind it. The parent puts one item, then one more for whoever is left.
fn waiting_for_items(ledger: Ledger, size: usize) -> Trial {
    let queue = Queue::new(0).unwrap();
    let getter = |place| {
        let queue = queue.clone();
        move || ledger.set(place, u64::from(get(&queue, Deadline::Never).number))
    };
    let (victim, survivor) = (getter(VICTIM_GOT), getter(SURVIVOR_GOT));
    let meanwhile = {
        let queue = queue.clone();
        move |stage: &mut Stage| {
            stage.until_asleep();
            stage.add_asleep(survivor);
            put(&queue, Item::new(PARENT, 1), size, soon());
        }
    };
    Trial::new(victim, move |stage, fate| {
        // The first item is there for the survivor, unless the victim had it, or took it along.
        if ledger.get(VICTIM_GOT) == 1 || queue.is_empty() && ledger.get(SURVIVOR_GOT) == 0 {
            put(&queue, Item::new(PARENT, 2), size, soon());
        }
        stage.join_beside();
        let (victim, survivor) = (ledger.get(VICTIM_GOT), ledger.get(SURVIVOR_GOT));
        assert!(survivor != 0 && survivor != victim);
        assert!(fate == Fate::Died || victim != 0);
        while !queue.is_empty() {
            get(&queue, soon());
        }
    })
    .meanwhile(meanwhile)
}

/// A producer sleeps on a full queue; the victim takes items out.
fn making_room(ledger: Ledger) -> Trial {
    let queue = Queue::new(2).unwrap();
    for number in 1..=2 {
        put(&queue, Item::new(PARENT, number), 0, soon());
    }
    let (for_producer, for_victim) = (queue.clone(), queue.clone());
    let victim = move || {
        for number in 1..=2 {
            assert_eq!(get(&for_victim, soon()), Item::new(PARENT, number));
            ledger.set(ACKNOWLEDGED, u64::from(number));
        }
    };
    let after = move |stage: &mut Stage, fate: Fate| {
        // Room for one is room enough: who sleeps must find out, whatever happened to the one that made it.
        let mut got = Vec::new();
        if queue.is_full() && ledger.get(ACKNOWLEDGED) == 0 {
            got.push(get(&queue, soon()));
        }
        stage.join_beside();
        while !queue.is_empty() {
            got.push(get(&queue, soon()));
        }
        assert_eq!(got.pop(), Some(Item::new(SURVIVOR, 1)));
        let taken = ledger.get(ACKNOWLEDGED) as u32;
        let rest: Vec<u32> = got.iter().map(|item| item.number).collect();
        let whole: Vec<u32> = (taken + 1..=2).collect();
        assert!(rest == whole || (fate == Fate::Died && rest == whole[1..]), "{taken} taken, {rest:?} left");
    };
    Trial::new(victim, after).asleep(move || put(&for_producer, Item::new(SURVIVOR, 1), 0, Deadline::Never))
}

/// A message names a lock, which lives on in the message alone.
fn references(ledger: Ledger, get_dies: bool) -> Trial {
    let queue = Queue::new(0).unwrap();
    let lock = Lock::new().unwrap();
    let send = {
        let (queue, lock) = (queue.clone(), lock.clone());
        move || {
            let names: [Handle; 2] = [lock.hold().handle(); 2];
            let bytes = Item::new(VICTIM, 1).bytes(0);
            let mut parcel = Parcel::new(0, &bytes).unwrap();
            parcel.set_references(&names);
            queue.put(&mut parcel, soon()).unwrap();
        }
    };
    let name: Handle = lock.hold().handle();
    let receive = move |queue: &Queue| {
        let mut envelope = Envelope::new();
        queue.get(&mut envelope, soon()).unwrap();
        assert_eq!(item_in(&envelope), Item::new(VICTIM, 1));
        let lock = Lock::from_handle(name).unwrap();
        lock.acquire(soon()).unwrap();
        lock.release().unwrap();
    };
    if get_dies {
        send();
        let for_victim = queue.clone();
        let victim = move || {
            receive(&for_victim);
            ledger.set(ACKNOWLEDGED, 1);
        };
        return Trial::new(victim, move |stage, _| {
            stage.sweep();
            drop((lock, send));
            if !queue.is_empty() {
                receive(&queue);
            }
        });
    }
    let victim = move || {
        send();
        ledger.set(ACKNOWLEDGED, 1);
    };
    Trial::new(victim, move |stage, fate| {
        stage.sweep();
        drop(lock);
        assert!(ledger.get(ACKNOWLEDGED) == 0 || !queue.is_empty());
        assert!(fate == Fate::Died || !queue.is_empty());
        if !queue.is_empty() {
            receive(&queue);
        }
    })
}

/// Another waits until all tasks are finished, while the one that finishes them dies.
fn finishing(ledger: Ledger) -> Trial {
    let queue = Queue::new(0).unwrap();
    for number in 1..=3 {
        put(&queue, Item::new(PARENT, number), 0, soon());
    }
    let (for_victim, for_waiter) = (queue.clone(), queue.clone());
    let victim = move || {
        for number in 1..=3 {
            get(&for_victim, soon());
            for_victim.finish_one().unwrap();
            ledger.set(ACKNOWLEDGED, number);
        }
    };
    let after = move |stage: &mut Stage, _| {
        let done = 3 - u64::from(queue.unfinished());
        let acknowledged = ledger.get(ACKNOWLEDGED);
        assert!(done == acknowledged || done == acknowledged + 1);
        while queue.unfinished() > 0 {
            queue.finish_one().unwrap();
        }
        assert!(queue.finish_one().is_err());
        stage.join_beside();
        while !queue.is_empty() {
            get(&queue, soon());
        }
    };
    Trial::new(victim, after).asleep(move || for_waiter.wait_finished(Deadline::Never).unwrap())
}

/// A queue is dropped with all that is in it.
fn dropping(_ledger: Ledger) -> Trial {
    let slot = Rc::new(RefCell::new(Some(Queue::new(0).unwrap())));
    let lock = Lock::new().unwrap();
    {
        let queue = slot.borrow();
        let queue = queue.as_ref().unwrap();
        for number in 1..=4 {
            put(queue, Item::new(PARENT, number), 50_000, soon());
            put_with_buffer(queue, Item::new(PARENT, number), 100_000);
        }
        let names = [lock.hold().handle()];
        let mut parcel = Parcel::new(0, b"with a reference").unwrap();
        parcel.set_references(&names);
        queue.put(&mut parcel, soon()).unwrap();
    }
    let for_victim = slot.clone();
    let (for_parent, for_meanwhile) = (slot.clone(), slot);
    // The victim is the last that holds the queue: the parent has dropped it when the victim does.
    let gate = polyproc_engine::sync::Event::new().unwrap();
    let opened = gate.clone();
    Trial::new(
        move || {
            gate.wait(soon()).unwrap();
            for_victim.borrow_mut().take();
        },
        move |_, _| drop(for_parent),
    )
    .meanwhile(move |_| {
        for_meanwhile.borrow_mut().take();
        opened.set();
        drop(lock);
    })
}

pub fn scenarios() -> Vec<Scenario> {
    use Role::{Holder, Peer, Waiter};
    let small = |queue: &Queue, item| put(queue, item, 100, soon());
    let inline = |queue: &Queue, item| put(queue, item, 50_000, soon());
    let large = |queue: &Queue, item| put(queue, item, 100_000, soon());
    let buffers = |queue: &Queue, item| put_with_buffer(queue, item, 70_000);
    vec![
        Scenario::new("queue: put small items", Holder, move |l| putting(l, 0, 3, false, small)),
        Scenario::new("queue: put into growing segments", Holder, move |l| putting(l, 0, 8, false, inline)),
        Scenario::new("queue: put large items", Holder, move |l| putting(l, 0, 2, false, large)),
        Scenario::new("queue: put large items with buffers", Holder, move |l| putting(l, 0, 2, false, buffers)),
        Scenario::new("queue: put, a consumer asleep", Holder, move |l| putting(l, 0, 3, true, small)),
        Scenario::new("queue: put large items, a consumer asleep", Holder, move |l| putting(l, 0, 2, true, large)),
        Scenario::new("queue: put into a bounded queue", Holder, move |l| putting(l, 2, 6, true, small)),
        Scenario::new("queue: put, asleep for room", Waiter, |l| waiting_for_room(l, 0)),
        Scenario::new("queue: put large, asleep for room", Waiter, |l| waiting_for_room(l, 100_000)),
        Scenario::new("queue: get small items", Peer, move |l| getting(l, 5, 3, small)),
        Scenario::new("queue: get from growing segments", Peer, move |l| getting(l, 9, 8, inline)),
        Scenario::new("queue: get large items", Peer, move |l| getting(l, 3, 2, large)),
        Scenario::new("queue: get large items with buffers", Peer, move |l| getting(l, 3, 2, buffers)),
        Scenario::new("queue: get, asleep for an item", Waiter, |l| waiting_for_items(l, 0)),
        Scenario::new("queue: get large, asleep for an item", Waiter, |l| waiting_for_items(l, 100_000)),
        Scenario::new("queue: get, a producer asleep", Peer, making_room),
        Scenario::new("queue: put with references", Holder, |l| references(l, false)),
        Scenario::new("queue: get with references", Peer, |l| references(l, true)),
        Scenario::new("queue: finish tasks", Peer, finishing),
        Scenario::new("queue: drop with items", Holder, dropping),
    ]
}
