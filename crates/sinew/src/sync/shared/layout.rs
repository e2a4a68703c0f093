//! What lies where in a structure, as far as another program has to agree.

#![allow(unsafe_code, reason = "what may lie in shared memory is an unsafe trait")]

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// The layout of a type: its size, its alignment, and a hash over what its fields are and where.
///
/// Two programs agree on a structure if they agree on this. Names of types do not count, names
/// of fields do, so that two fields of one type that changed places are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    hash: u64,
    size: usize,
    align: usize,
    /// Whether every byte is one of a number, and none changes behind a reference.
    solid: bool,
}

/// A field of a structure. Made by [`plain!`](crate::plain).
#[derive(Clone, Copy, Debug)]
pub struct Field {
    name: &'static str,
    offset: usize,
    layout: Layout,
}

impl Field {
    /// The field of this name, so many bytes from the beginning.
    #[must_use]
    pub const fn new(name: &'static str, offset: usize, layout: Layout) -> Self {
        Self { name, offset, layout }
    }
}

impl Layout {
    /// The layout of a structure with these fields.
    #[must_use]
    pub const fn of_struct<T>(fields: &[Field]) -> Self {
        let mut hash = word(BASIS, size_of::<T>() as u64);
        hash = word(hash, align_of::<T>() as u64);
        let (mut index, mut bytes, mut solid) = (0, 0, true);
        while index < fields.len() {
            let field = fields[index];
            bytes += field.layout.size;
            solid = solid && field.layout.solid;
            hash = text(hash, field.name);
            hash = word(hash, field.offset as u64);
            hash = word(hash, field.layout.hash);
            index += 1;
        }
        solid = solid && bytes == size_of::<T>();
        Self { hash, size: size_of::<T>(), align: align_of::<T>(), solid }
    }

    /// The layout of what is no structure, has no padding and does not change behind a reference: `kind` tells it from others
    /// of its size.
    #[must_use]
    pub const fn of_kind<T>(kind: &str) -> Self {
        let hash = word(text(BASIS, kind), size_of::<T>() as u64);
        Self { hash, size: size_of::<T>(), align: align_of::<T>(), solid: true }
    }

    /// The same of an atomic, which changes behind a reference.
    const fn of_atomic<T>(kind: &str) -> Self {
        Self { solid: false, ..Self::of_kind::<T>(kind) }
    }

    /// Whether every byte is one of a number, and none changes behind a reference: no padding, no atomic.
    pub(crate) const fn is_solid(self) -> bool {
        self.solid
    }

    /// The hash of a slice of such values.
    pub(crate) const fn hash_of_slice(self) -> u64 {
        word(text(BASIS, "slice"), self.hash)
    }

    /// The hash.
    #[must_use]
    pub const fn hash(self) -> u64 {
        self.hash
    }

    /// The size, in bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        self.size
    }

    /// The alignment, in bytes.
    #[must_use]
    pub const fn align(self) -> usize {
        self.align
    }
}

// FNV-1a of 64 bits: it tells structures apart that differ by mistake, and is no defence.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

const fn word(mut hash: u64, value: u64) -> u64 {
    let bytes = value.to_le_bytes();
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(PRIME);
        index += 1;
    }
    hash
}

const fn text(mut hash: u64, value: &str) -> u64 {
    let bytes = value.as_bytes();
    hash = word(hash, bytes.len() as u64);
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(PRIME);
        index += 1;
    }
    hash
}

/// What may lie in memory that another program maps too: numbers, and arrays and structures of them.
///
/// Implement it with [`plain!`](crate::plain), which needs no `unsafe` of yours.
///
/// # Safety
/// Every combination of bytes is a value of the type: a process can die between any two stores. It has no
/// address, no reference and no handle, which mean nothing in another process. Its fields lie
/// where [`LAYOUT`](Self::LAYOUT) says, with the padding and the atomics that follow from that, whatever compiled it (`repr(C)`, and no `usize`).
pub unsafe trait Plain: Send + Sync + 'static {
    /// What lies where.
    const LAYOUT: Layout;
}

macro_rules! numbers {
    ($of:ident: $($type:ty: $kind:literal),* $(,)?) => {
        $(
            // SAFETY: a number of a fixed size: every combination of bytes is one.
            unsafe impl Plain for $type {
                const LAYOUT: Layout = Layout::$of::<Self>($kind);
            }
        )*
    };
}

numbers! {
    of_kind:
    u8: "unsigned", u16: "unsigned", u32: "unsigned", u64: "unsigned", u128: "unsigned",
    i8: "signed", i16: "signed", i32: "signed", i64: "signed", i128: "signed",
    f32: "float", f64: "float",
}

numbers! {
    of_atomic:
    AtomicU8: "unsigned", AtomicU16: "unsigned", AtomicU32: "unsigned", AtomicU64: "unsigned",
    AtomicI32: "signed", AtomicI64: "signed",
}

// SAFETY: as its elements, one after the other.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {
    const LAYOUT: Layout = {
        let hash = word(word(text(BASIS, "array"), N as u64), T::LAYOUT.hash);
        Layout { hash, size: size_of::<Self>(), align: align_of::<Self>(), solid: T::LAYOUT.solid }
    };
}

/// Declares a structure that may lie in shared memory: `repr(C)`, its layout known to
/// [`shared`](crate::shared). Every field has to be [`Plain`](crate::shared::Plain) itself.
///
/// ```
/// sinew::plain! {
///     /// What the workers have done.
///     #[derive(Debug, Default)]
///     pub struct Progress {
///         pub done: u64,
///         pub failed: u32,
///         pub last: [u8; 16],
///     }
/// }
/// # use sinew::shared::Plain;
/// assert_eq!(Progress::LAYOUT.size(), 32);
/// ```
///
/// What cannot be shared does not compile:
///
/// ```compile_fail
/// sinew::plain! {
///     struct Wrong { name: String }
/// }
/// ```
#[macro_export]
macro_rules! plain {
    (
        $(#[$outer:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$inner:meta])* $access:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$outer])*
        #[repr(C)]
        $visibility struct $name {
            $($(#[$inner])* $access $field: $type,)*
        }

        // SAFETY: `repr(C)`, and every field is plain: its layout is named here.
        unsafe impl $crate::shared::Plain for $name {
            const LAYOUT: $crate::shared::Layout =
                $crate::shared::Layout::of_struct::<Self>(&[$($crate::shared::Field::new(
                    stringify!($field),
                    ::std::mem::offset_of!(Self, $field),
                    <$type as $crate::shared::Plain>::LAYOUT,
                )),*]);
        }
    };
}
