//! A message before it is sent ([`Parcel`]) and after it has come ([`Envelope`]).
//!
//! Up to 64 KiB a message lies in the ring. What is larger lies in blocks, copied there once, before any lock is taken.

use crate::Result;
use crate::shm::{Handle, Lease};

/// The largest body that lies in a ring, in bytes.
pub const INLINE_MAX: usize = 64 * 1024;

/// A message that is ready to be sent: its large parts lie in blocks already.
///
/// Sending takes the blocks out of it. A send that did not come about leaves it as it was, to be sent again or dropped.
#[derive(Debug, Default)]
pub struct Parcel<'a> {
    pub(crate) kind: u8,
    pub(crate) inline: &'a [u8],
    pub(crate) body_in_block: bool,
    pub(crate) blocks: Vec<Lease>,
    pub(crate) references: &'a [Handle],
}

impl<'a> Parcel<'a> {
    /// The most buffers that one message may have beside its body.
    pub const MOST_BUFFERS: usize = 200;
    /// The most handles that one message may have.
    pub const MOST_REFERENCES: usize = 255;

    /// A message of these bytes. `kind` is the face's own number, at most [`Parcel::MOST_KIND`].
    ///
    /// # Errors
    /// [`crate::Error::BudgetExhausted`] if the body is large and there is no memory for it.
    pub fn new(kind: u8, body: &'a [u8]) -> Result<Parcel<'a>> {
        let mut parcel = Parcel { kind, ..Parcel::default() };
        if body.len() <= INLINE_MAX {
            parcel.inline = body;
        } else {
            // SAFETY: a slice is valid for its length.
            parcel.blocks.push(unsafe { copy_in(body.as_ptr(), body.len())? });
            parcel.body_in_block = true;
        }
        Ok(parcel)
    }

    /// The greatest `kind`.
    pub const MOST_KIND: u8 = 250;

    /// A message whose body was written to a block by the caller.
    pub fn from_lease(kind: u8, body: Lease) -> Parcel<'a> {
        Parcel { kind, body_in_block: true, blocks: vec![body], ..Parcel::default() }
    }

    /// Adds a buffer, copied to a block of its own.
    ///
    /// # Errors
    /// As [`Parcel::new`].
    ///
    /// # Safety
    /// `bytes` must be valid for reads of `length` bytes for the length of the call. Other threads may write there
    /// meanwhile: then what arrives is a mixture.
    pub unsafe fn add_buffer(&mut self, bytes: *const u8, length: usize) -> Result<()> {
        // SAFETY: the caller vouches for the range.
        self.blocks.push(unsafe { copy_in(bytes, length)? });
        Ok(())
    }

    /// Makes the names of the objects a block of their own, the last of all. True if there is one.
    pub(crate) fn name_references(&mut self) -> Result<bool> {
        if !self.references.is_empty() {
            self.blocks.push(Lease::naming(self.references)?);
            self.references = &[];
        }
        Ok(self.blocks.last().is_some_and(Lease::names_objects))
    }

    /// The bytes that lie in blocks.
    pub(crate) fn weight(&self) -> u64 {
        self.blocks.iter().map(|lease| lease.len() as u64).sum()
    }

    /// Adds these bytes as a buffer, copied to a block of its own.
    ///
    /// # Errors
    /// As [`Parcel::new`].
    pub fn add_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        // SAFETY: a slice is valid for its length.
        self.blocks.push(unsafe { copy_in(bytes.as_ptr(), bytes.len())? });
        Ok(())
    }

    /// Adds a buffer that lies in a block already, which is sent without a copy.
    pub fn add_lease(&mut self, lease: Lease) {
        self.blocks.push(lease);
    }

    /// The blocks of a message that was not sent.
    pub fn into_leases(self) -> Vec<Lease> {
        self.blocks
    }

    /// Names the objects whose handles stand in the message, so that they live until it has been read.
    ///
    /// The caller holds them until the message is sent.
    pub fn set_references(&mut self, references: &'a [Handle]) {
        self.references = references;
    }
}

/// # Safety
/// `bytes` must be valid for reads of `length` bytes.
unsafe fn copy_in(bytes: *const u8, length: usize) -> Result<Lease> {
    let lease = Lease::allocate(length)?;
    // SAFETY: the caller vouches for the source; the lease has `length` bytes that nobody else has.
    unsafe { std::ptr::copy_nonoverlapping(bytes, lease.as_ptr(), length) };
    Ok(lease)
}

/// A block with the same bytes.
///
/// # Errors
/// As [`Lease::allocate`].
pub fn duplicate(lease: &Lease) -> Result<Lease> {
    // SAFETY: a lease is valid for its length.
    unsafe { copy_in(lease.as_ptr(), lease.len()) }
}

/// The bytes of a message that has come.
#[derive(Debug)]
pub enum Body {
    /// It was small: see [`Envelope::inline`].
    Inline,
    /// It was large: it lies here.
    Block(Lease),
}

/// A message that has come. Made once and used for many: its memory is kept.
#[derive(Debug)]
pub struct Envelope {
    /// The face's number.
    pub kind: u8,
    /// The body of a small message.
    pub inline: Vec<u8>,
    /// Where the body is.
    pub body: Body,
    /// The other buffers, in the order in which they were added.
    pub buffers: Vec<Lease>,
    /// The block that names the objects whose handles stand in the message; they live at least as long as it does.
    pub(crate) names: Option<Lease>,
}

impl Default for Envelope {
    fn default() -> Envelope {
        Envelope { kind: 0, inline: Vec::new(), body: Body::Inline, buffers: Vec::new(), names: None }
    }
}

impl Envelope {
    /// An empty envelope.
    pub fn new() -> Envelope {
        Envelope::default()
    }

    /// The size of the body in bytes.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Inline => self.inline.len(),
            Body::Block(lease) => lease.len(),
        }
    }

    /// True if the body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that lie in blocks.
    pub(crate) fn weight(&self) -> u64 {
        let body = if let Body::Block(lease) = &self.body { lease.len() } else { 0 };
        self.buffers.iter().map(Lease::len).sum::<usize>() as u64 + body as u64
    }

    /// The body's address: of this process's own memory, or of a block that this process alone has.
    pub fn as_ptr(&self) -> *const u8 {
        match &self.body {
            Body::Inline => self.inline.as_ptr(),
            Body::Block(lease) => lease.as_ptr(),
        }
    }

    /// The body, if it was small: it then lies in this process's own memory.
    pub fn inline_body(&self) -> Option<&[u8]> {
        matches!(self.body, Body::Inline).then_some(&self.inline)
    }

    /// The body, copied, so that no other process can change it any more.
    pub fn copy(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        // SAFETY: the body is valid for its length, and the vector has room for it. Whoever writes to a block that it does
        // not have changes what is copied, and nothing else.
        unsafe {
            std::ptr::copy_nonoverlapping(self.as_ptr(), bytes.as_mut_ptr(), self.len());
            bytes.set_len(self.len());
        }
        bytes
    }

    /// Empties it: gives blocks back and lets go of the objects that the message names.
    pub fn clear(&mut self) {
        self.kind = 0;
        self.inline.clear();
        self.body = Body::Inline;
        self.buffers.clear();
        self.names = None;
    }

    /// The blocks of the message that has come.
    pub(crate) fn leases(&self) -> impl Iterator<Item = &Lease> {
        let body = if let Body::Block(lease) = &self.body { Some(lease) } else { None };
        body.into_iter().chain(&self.buffers).chain(&self.names)
    }

    /// True if it names no objects.
    pub(crate) fn names_nothing(&self) -> bool {
        self.names.is_none()
    }

    /// The same message, to be sent on. The blocks move to the parcel.
    pub(crate) fn as_parcel(&mut self) -> Parcel<'_> {
        let mut blocks = Vec::new();
        let mut body_in_block = false;
        if let Body::Block(lease) = std::mem::replace(&mut self.body, Body::Inline) {
            blocks.push(lease);
            body_in_block = true;
        }
        blocks.append(&mut self.buffers);
        blocks.extend(self.names.take());
        Parcel { kind: self.kind, inline: &self.inline, body_in_block, blocks, references: &[] }
    }

    /// Takes back the blocks of [`Envelope::as_parcel`].
    pub(crate) fn take_back(&mut self, mut blocks: Vec<Lease>, body_in_block: bool) {
        if body_in_block && !blocks.is_empty() {
            self.body = Body::Block(blocks.remove(0));
        }
        self.names = blocks.pop_if(|lease| lease.names_objects());
        self.buffers = blocks;
    }
}
