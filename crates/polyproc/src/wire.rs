//! Values as bytes, and what travels beside the bytes: holds on shared objects, and descriptors.
//!
//! While a value is encoded, each handle in it ([`crate::Queue`], [`crate::Lock`], …) writes its name and leaves a hold in the
//! thread's luggage; whoever sends the bytes makes the receiver a holder, or pins what is named, before the luggage is
//! dropped. So an object lives as long as any message names it. Outside of such an encoding a handle refuses to be
//! serialised: its name means nothing in a file.

use crate::{Error, Result};
use polyproc_engine::channel::keeper::{self, Token};
use polyproc_engine::channel::{Envelope, Parcel};
use polyproc_engine::shm::{Hold, Lease};
use polyproc_engine::{Deadline, Handle};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What travels beside the bytes of a value.
#[derive(Debug, Default)]
pub(crate) struct Luggage {
    pub holds: Vec<Hold>,
    pub descriptors: Vec<OwnedFd>,
    pub blocks: Vec<Lease>,
}

/// What has come beside the bytes of a value, to be taken out as it is decoded.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    descriptors: Vec<Option<OwnedFd>>,
    blocks: Vec<Option<Lease>>,
    /// The end of the bytes: if the value has descriptors that did not come beside it, it says where they are.
    token: Option<[u8; Token::SIZE]>,
}

impl Arrived {
    pub(crate) fn new(
        descriptors: impl IntoIterator<Item = OwnedFd>,
        blocks: impl IntoIterator<Item = Lease>,
    ) -> Arrived {
        Arrived {
            descriptors: descriptors.into_iter().map(Some).collect(),
            blocks: blocks.into_iter().map(Some).collect(),
            token: None,
        }
    }
}

impl Luggage {
    /// The names of what is held.
    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.holds.iter().map(Hold::handle).collect()
    }
}

thread_local! {
    static PACKING: RefCell<Option<Luggage>> = const { RefCell::new(None) };
    static UNPACKING: RefCell<Arrived> = const { RefCell::new(Arrived { descriptors: Vec::new(), blocks: Vec::new(), token: None }) };
    static BYTES: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static ENVELOPE: RefCell<Option<Envelope>> = const { RefCell::new(None) };
}

/// The most bytes of a buffer that is kept for the next message.
const KEPT: usize = 1 << 20;

/// Encodes a value after what `bytes` has already.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, bytes: Vec<u8>) -> Result<(Vec<u8>, Luggage)> {
    // A value whose encoding sends other values has its own luggage.
    let outer = PACKING.with(|packing| packing.replace(Some(Luggage::default())));
    let outcome = postcard::to_extend(value, bytes);
    let luggage = PACKING.with(|packing| packing.replace(outer)).unwrap_or_default();
    match outcome {
        Ok(bytes) => Ok((bytes, luggage)),
        Err(error) => Err(Error::Encode { type_name: type_name::<T>(), detail: explain(error) }),
    }
}

/// Decodes a value. The objects that it names must be held, or pinned, until this returns.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], mut arrived: Arrived) -> Result<T> {
    arrived.token = bytes.last_chunk().copied();
    let outer = UNPACKING.with(|unpacking| unpacking.replace(arrived));
    let outcome = postcard::from_bytes(bytes);
    UNPACKING.with(|unpacking| unpacking.replace(outer));
    outcome.map_err(|error| Error::Decode { type_name: type_name::<T>(), detail: explain(error) })
}

fn explain(error: postcard::Error) -> String {
    match REFUSED.take() {
        Some(refused) => refused,
        None => error.to_string(),
    }
}

thread_local! {
    /// Why a handle refused: postcard does not keep messages.
    static REFUSED: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs `f` with a buffer that is used again.
pub(crate) fn with_bytes<R>(f: impl FnOnce(Vec<u8>) -> (Vec<u8>, R)) -> R {
    let mut bytes = BYTES.take();
    bytes.clear();
    let (bytes, result) = f(bytes);
    if bytes.capacity() <= KEPT {
        BYTES.set(bytes);
    }
    result
}

/// Runs `f` with an envelope that is used again.
pub(crate) fn with_envelope<R>(f: impl FnOnce(&mut Envelope) -> R) -> R {
    let mut envelope = ENVELOPE.with(|kept| kept.borrow_mut().take()).unwrap_or_default();
    let result = f(&mut envelope);
    envelope.clear();
    ENVELOPE.with(|kept| kept.replace(Some(envelope)));
    result
}

/// Decodes what an envelope brought.
pub(crate) fn open<T: DeserializeOwned>(envelope: &mut Envelope, descriptors: Vec<OwnedFd>) -> Result<T> {
    let arrived = Arrived::new(descriptors, std::mem::take(&mut envelope.buffers));
    match envelope.inline_body() {
        Some(bytes) => decode(bytes, arrived),
        // Peers may write to a block at any time: what is decoded is a copy.
        None => decode(&envelope.copy(), arrived),
    }
}

/// Calls again after a signal: signals are not this library's business.
pub(crate) fn again<R>(mut call: impl FnMut() -> polyproc_engine::Result<R>) -> polyproc_engine::Result<R> {
    loop {
        match call() {
            Err(polyproc_engine::Error::Interrupted) => {}
            outcome => return outcome,
        }
    }
}

/// Calls with a deadline, again after a signal. A call that is not to wait at all fails also when somebody else is at it at
/// that moment: it is repeated, and in the end waits a little, as whoever is at it may be dead.
pub(crate) fn by<R>(
    deadline: Deadline,
    mut call: impl FnMut(Deadline) -> polyproc_engine::Result<R>,
) -> polyproc_engine::Result<R> {
    const A_LITTLE: Duration = Duration::from_millis(60);
    let mut rounds = 0u32;
    loop {
        let patience = if deadline == Deadline::Now && rounds % 128 == 127 { within(A_LITTLE) } else { deadline };
        match call(patience) {
            Err(polyproc_engine::Error::Interrupted) => {}
            Err(polyproc_engine::Error::Busy) => {
                rounds += 1;
                std::thread::yield_now();
            }
            outcome => return outcome,
        }
    }
}

/// Calls until it is done; `None` if the deadline passed first. For calls that fail in no other way but by a signal.
#[inline]
pub(crate) fn until<R>(deadline: Deadline, mut call: impl FnMut() -> polyproc_engine::Result<R>) -> Option<R> {
    loop {
        match call() {
            Ok(done) => return Some(done),
            Err(polyproc_engine::Error::TimedOut) if deadline != Deadline::Never => return None,
            Err(_) => {}
        }
    }
}

/// A message of these bytes, with what travels beside them but descriptors. `handles` are the luggage's.
pub(crate) fn parcel<'a>(
    kind: u8,
    bytes: &'a [u8],
    luggage: &mut Luggage,
    handles: &'a [Handle],
) -> polyproc_engine::Result<Parcel<'a>> {
    if luggage.blocks.len() > Parcel::MOST_BUFFERS || handles.len() > Parcel::MOST_REFERENCES {
        let limit = Parcel::MOST_BUFFERS as u64;
        return Err(polyproc_engine::Error::TooMany { what: "shared objects or blocks in one message", limit });
    }
    let mut parcel = Parcel::new(kind, bytes)?;
    for block in luggage.blocks.drain(..) {
        parcel.add_lease(block);
    }
    parcel.set_references(handles);
    Ok(parcel)
}

/// The moment that lies so far ahead.
pub(crate) fn within(timeout: Duration) -> Deadline {
    Deadline::after(Some(timeout))
}

/// Writes the name of a shared object.
pub(crate) fn pack<S: Serializer>(hold: &Hold, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let packed = PACKING.with(|packing| match packing.borrow_mut().as_mut() {
        Some(luggage) => {
            luggage.holds.push(hold.clone());
            true
        }
        None => false,
    });
    if packed {
        hold.handle().to_bytes().serialize(serializer)
    } else {
        Err(serde::ser::Error::custom(
            "a shared object travels only in the arguments, results and messages of polyproc",
        ))
    }
}

/// The name of a shared object, as part of what names several.
pub(crate) struct Name<'a>(pub(crate) &'a Hold);

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        pack(self.0, serializer)
    }
}

/// Writes the names of two shared objects that are one for the user.
pub(crate) fn pack_two<S: Serializer>([one, two]: [&Hold; 2], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    (Name(one), Name(two)).serialize(serializer)
}

/// Reads two names, and takes hold of both objects with `take`.
pub(crate) fn unpack_two<'de, D: Deserializer<'de>, H>(
    deserializer: D,
    take: impl FnOnce(Handle, Handle) -> polyproc_engine::Result<H>,
) -> std::result::Result<H, D::Error> {
    let (one, two) = <([u8; 16], [u8; 16])>::deserialize(deserializer)?;
    let found = || take(Handle::from_bytes(&one)?, Handle::from_bytes(&two)?);
    found().map_err(|error| refuse(&error))
}

/// Also keeps this object alive while the value travels.
pub(crate) fn pack_along(hold: Hold) {
    PACKING.with(|packing| {
        if let Some(luggage) = packing.borrow_mut().as_mut() {
            luggage.holds.push(hold);
        }
    });
}

/// Puts a descriptor in the luggage; gives its number there. `None` outside of an encoding.
pub(crate) fn pack_descriptor(descriptor: OwnedFd) -> Option<u32> {
    PACKING.with(|packing| {
        let mut packing = packing.borrow_mut();
        let luggage = packing.as_mut()?;
        luggage.descriptors.push(descriptor);
        Some(luggage.descriptors.len() as u32 - 1)
    })
}

/// Leaves the descriptors of a value with this process's keeper, and writes at the end of its bytes where they are: for all
/// ways but a pipe, which carries them beside the message.
pub(crate) fn leave_descriptors(bytes: &mut Vec<u8>, luggage: &mut Luggage) -> polyproc_engine::Result<()> {
    if !luggage.descriptors.is_empty() {
        let token = keeper::keep(std::mem::take(&mut luggage.descriptors))?;
        bytes.extend_from_slice(&token.to_bytes());
        luggage.holds.push(token.hold().clone());
    }
    Ok(())
}

/// Takes a descriptor that came with the value, or was left for it.
pub(crate) fn unpack_descriptor(number: u32) -> std::result::Result<OwnedFd, String> {
    UNPACKING.with(|unpacking| {
        let mut arrived = unpacking.borrow_mut();
        if arrived.descriptors.is_empty()
            && let Some(token) = arrived.token.take()
        {
            let fetched = keeper::fetch(&token).map_err(|error| {
                format!("a descriptor did not arrive; whoever sent it must live until it is received: {error}")
            })?;
            arrived.descriptors = fetched.into_iter().map(Some).collect();
        }
        let place = arrived.descriptors.get_mut(number as usize);
        place.and_then(Option::take).ok_or_else(|| "a descriptor did not arrive".to_owned())
    })
}

/// Puts a block in the luggage; gives its number there. `None` outside of an encoding.
pub(crate) fn pack_block(block: Lease) -> Option<u32> {
    PACKING.with(|packing| {
        let mut packing = packing.borrow_mut();
        let luggage = packing.as_mut()?;
        luggage.blocks.push(block);
        Some(luggage.blocks.len() as u32 - 1)
    })
}

/// Takes a block that came with the value.
pub(crate) fn unpack_block(number: u32) -> Option<Lease> {
    UNPACKING.with(|unpacking| unpacking.borrow_mut().blocks.get_mut(number as usize)?.take())
}

/// Reads the name of a shared object, and takes hold of it with `take`.
pub(crate) fn unpack<'de, D: Deserializer<'de>, H>(
    deserializer: D,
    take: impl FnOnce(Handle) -> polyproc_engine::Result<H>,
) -> std::result::Result<H, D::Error> {
    let bytes = <[u8; 16]>::deserialize(deserializer)?;
    Handle::from_bytes(&bytes).and_then(take).map_err(|error| refuse(&error))
}

/// An error for serde, whose message is kept where postcard would drop it.
pub(crate) fn refuse<E: serde::de::Error>(error: &impl std::fmt::Display) -> E {
    note_refusal(error);
    E::custom(error)
}

/// Keeps the message of an error that postcard is about to drop.
pub(crate) fn note_refusal(error: &impl std::fmt::Display) {
    REFUSED.set(Some(error.to_string()));
}
