//! What a provider that is a library and the runner that loads it agree on: three functions that move bytes.
//!
//! The bytes are the lines of protocol 1, as on a pipe. The layout of every type here is compared when a library is
//! loaded, so that one of another release is refused and never misread. The table is small on purpose: three
//! `extern "C"` functions over a pointer and a length could take its place, should `abi_stable` have to go.

use std::path::Path;

use abi_stable::erased_types::DynTrait;
use abi_stable::library::{LibraryError, RootModule, lib_header_from_path};
use abi_stable::package_version_strings;
use abi_stable::sabi_types::VersionStrings;

pub use abi_stable;
pub use abi_stable::std_types::{RBox, ROption, RSlice, RString};
pub use table::{Native, NativeRef, SessionKind, Sink, SinkKind};

/// A value only its maker knows, that may go to any thread.
pub type Opaque<Kind> = DynTrait<'static, RBox<()>, Kind>;
/// The library's side of one session.
pub type Session = Opaque<SessionKind>;

#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    improper_ctypes_definitions,
    non_local_definitions,
    clippy::all,
    reason = "the layout tables are made by a macro, which compares what the compiler cannot"
)]
mod table {
    use abi_stable::StableAbi;
    use abi_stable::std_types::{ROption, RSlice, RString};

    use crate::{Opaque, Session};

    /// The capabilities of a [`Session`]: it may be used from any thread.
    #[repr(C)]
    #[derive(StableAbi)]
    #[sabi(impl_InterfaceType(Send, Sync))]
    pub struct SessionKind;

    /// The capabilities of what stands behind a [`Sink`].
    #[repr(C)]
    #[derive(StableAbi)]
    #[sabi(impl_InterfaceType(Send, Sync))]
    pub struct SinkKind;

    /// Where the library's lines go.
    #[repr(C)]
    #[derive(StableAbi)]
    pub struct Sink {
        pub to: Opaque<SinkKind>,
        /// Takes whole lines; `false` when nobody reads any more.
        pub write: extern "C" fn(&Opaque<SinkKind>, RSlice<'_, u8>) -> bool,
    }

    /// What a library exports.
    #[repr(C)]
    #[derive(StableAbi)]
    #[sabi(kind(Prefix(prefix_ref = NativeRef, prefix_fields = NativeFields)))]
    #[sabi(missing_field(panic))]
    pub struct Native {
        /// Major version of the protocol that the lines are in.
        pub protocol: u32,
        /// Begins a session, whose lines go to the sink from threads of its own.
        pub open: extern "C" fn(Sink) -> Session,
        /// Bytes for the session, cut anywhere; waits while it has no room, and is nothing once it ended.
        pub feed: extern "C" fn(&Session, RSlice<'_, u8>),
        /// No more bytes will come: waits for the session's end, and says what went wrong.
        #[sabi(last_prefix_field)]
        pub close: extern "C" fn(Session) -> ROption<RString>,
    }
}

impl RootModule for NativeRef {
    abi_stable::declare_root_module_statics! {NativeRef}
    const BASE_NAME: &'static str = "crabbox_provider";
    const NAME: &'static str = "crabbox_provider";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

/// Loads a library, which stays loaded until the process ends. One of another layout or release is an error.
pub fn load(path: &Path) -> Result<NativeRef, LibraryError> {
    lib_header_from_path(path)?.init_root_module::<NativeRef>()
}

/// The symbol that a library exports, a [`abi_stable::library::LibHeader`].
#[macro_export]
macro_rules! export {
    ($table:path) => {
        #[expect(unsafe_code, reason = "the one symbol of the library")]
        #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
        pub static CRABBOX_PROVIDER: $crate::abi_stable::library::LibHeader = {
            extern "C" fn made() -> $crate::abi_stable::library::RootModuleResult {
                $crate::abi_stable::library::__call_root_module_loader($table)
            }
            // SAFETY: the function gives the type that is named, whose layout travels with it.
            unsafe {
                $crate::abi_stable::library::LibHeader::from_constructor::<$crate::NativeRef>(
                    made,
                    $crate::abi_stable::library::CheckTypeLayout::Yes,
                )
            }
        };
    };
}

#[cfg(test)]
#[allow(
    unsafe_code,
    dead_code,
    unreachable_pub,
    improper_ctypes_definitions,
    non_local_definitions,
    reason = "the layout tables are made by a macro"
)]
mod tests {
    use abi_stable::StableAbi;
    use abi_stable::library::{
        __call_root_module_loader, CheckTypeLayout, LibHeader, LibraryError, RootModule,
        RootModuleResult,
    };
    use abi_stable::package_version_strings;
    use abi_stable::prefix_type::PrefixTypeTrait;
    use abi_stable::sabi_types::VersionStrings;

    use super::{Native, NativeRef, Opaque, ROption, RSlice, RString, Session, Sink, SinkKind};

    extern "C" fn open(_: Sink) -> Session {
        Session::from_value(7_u32)
    }

    extern "C" fn feed(session: &Session, bytes: RSlice<'_, u8>) {
        assert_eq!((session.downcast_as::<u32>().ok(), bytes.len()), (Some(&7), 3));
    }

    extern "C" fn close(_: Session) -> ROption<RString> {
        ROption::RSome("said".into())
    }

    fn table() -> NativeRef {
        Native { protocol: 1, open, feed, close }.leak_into_prefix()
    }

    crate::export!(table);

    extern "C" fn write(_: &Opaque<SinkKind>, _: RSlice<'_, u8>) -> bool {
        true
    }

    #[test]
    fn the_table_comes_through_the_symbol_that_is_exported() {
        let library = CRABBOX_PROVIDER.init_root_module::<NativeRef>().unwrap();
        let session = library.open()(Sink { to: Opaque::<SinkKind>::from_value(()), write });
        library.feed()(&session, RSlice::from_slice(b"abc"));
        assert_eq!(library.close()(session), ROption::RSome("said".into()));
        assert_eq!(library.protocol(), 1);
    }

    /// The table of another release: one number is wider.
    #[repr(C)]
    #[derive(StableAbi)]
    #[sabi(kind(Prefix(prefix_ref = OtherRef, prefix_fields = OtherFields)))]
    #[sabi(missing_field(panic))]
    struct Other {
        protocol: u64,
        open: extern "C" fn(Sink) -> Session,
        feed: extern "C" fn(&Session, RSlice<'_, u8>),
        #[sabi(last_prefix_field)]
        close: extern "C" fn(Session) -> ROption<RString>,
    }

    impl RootModule for OtherRef {
        abi_stable::declare_root_module_statics! {OtherRef}
        const BASE_NAME: &'static str = "crabbox_provider";
        const NAME: &'static str = "crabbox_provider";
        const VERSION_STRINGS: VersionStrings = package_version_strings!();
    }

    #[test]
    fn a_table_of_another_layout_is_refused_and_nothing_of_it_called() {
        extern "C" fn made() -> RootModuleResult {
            let other = || Other { protocol: 1, open, feed, close }.leak_into_prefix();
            __call_root_module_loader(other)
        }
        // SAFETY: the function gives the type that is named.
        let header = unsafe { LibHeader::from_constructor::<OtherRef>(made, CheckTypeLayout::Yes) };
        let Err(LibraryError::AbiInstability(why)) = header.init_root_module::<NativeRef>() else {
            panic!("it was taken");
        };
        assert!(format!("{why:?}").contains("u64"), "{why:?}");
    }
}
