//! What code is mapped into this process: the program and its libraries, as the dynamic linker lists them
//! (dl_iterate_phdr(3)).

use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;

/// A program or library in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its file; empty for the program itself.
    pub name: String,
    /// What its addresses are counted from.
    pub base: usize,
    /// Where its code lies.
    pub code: Vec<Range<usize>>,
    /// The number that the linker gave to exactly this build; empty if it gave none.
    pub build_id: Vec<u8>,
}

impl Image {
    /// True if the address lies in the image's code.
    pub fn has(&self, address: usize) -> bool {
        self.code.iter().any(|range| range.contains(&address))
    }
}

/// All images, the program first.
pub fn all() -> Vec<Image> {
    let mut images = Vec::new();
    // SAFETY: the callback gets `images` back as its last argument, and the call returns before it goes.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut images).cast()) };
    images
}

unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _size: usize, images: *mut c_void) -> c_int {
    // SAFETY: the linker gives a valid record, and `images` is the vector in `all`.
    let (info, images) = unsafe { (&*info, &mut *images.cast::<Vec<Image>>()) };
    let name = if info.dlpi_name.is_null() {
        String::new()
    } else {
        // SAFETY: the name ends with a NUL.
        unsafe { CStr::from_ptr(info.dlpi_name) }.to_string_lossy().into_owned()
    };
    let mut image = Image { name, base: info.dlpi_addr as usize, code: Vec::new(), build_id: Vec::new() };
    if !info.dlpi_phdr.is_null() {
        // SAFETY: the table has that many headers.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        for header in headers {
            let start = image.base.wrapping_add(header.p_vaddr as usize);
            let length = header.p_memsz as usize;
            if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0 {
                image.code.push(start..start.saturating_add(length));
            } else if header.p_type == libc::PT_NOTE && image.build_id.is_empty() {
                // SAFETY: a note segment of a loaded image is mapped for reading.
                let notes = unsafe { std::slice::from_raw_parts(start as *const u8, length) };
                image.build_id = build_id(notes).unwrap_or_default().to_vec();
            }
        }
    }
    images.push(image);
    0
}

/// The build id among the notes of a segment.
fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    const BUILD_ID: u32 = 3;
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    loop {
        let (name, content, kind) = (word(notes, 0)? as usize, word(notes, 4)? as usize, word(notes, 8)?);
        let at = 12 + name.next_multiple_of(4);
        let content = notes.get(at..at.checked_add(content)?)?;
        if kind == BUILD_ID && notes.get(12..16) == Some(b"GNU\0") {
            return Some(content);
        }
        notes = notes.get(at + content.len().next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_the_program_lies_in_its_first_image() {
        let images = all();
        let here = a_function_of_the_program_lies_in_its_first_image as fn() as usize;
        assert!(images[0].has(here), "{images:?}");
        assert!(images[1..].iter().all(|image| !image.has(here)));
    }

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        let mut notes = Vec::new();
        for (name, kind, content) in [(*b"GNU\0", 5u32, &[1u8, 2, 3, 4][..]), (*b"GNU\0", 3, &[9, 8, 7])] {
            notes.extend(4u32.to_ne_bytes());
            notes.extend((content.len() as u32).to_ne_bytes());
            notes.extend(kind.to_ne_bytes());
            notes.extend(name);
            notes.extend(content);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(build_id(&notes), Some(&[9, 8, 7][..]));
        assert_eq!(build_id(&notes[..12]), None);
    }
}
