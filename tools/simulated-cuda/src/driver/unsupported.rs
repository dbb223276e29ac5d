//! Functions that clients look up but that nothing here simulates: memory of other interfaces, clusters. The device's attributes say so; the calls do too.

use super::abi::guard;
use super::result::{self, CUresult, Result};
use super::state;

fn refuse() -> Result {
    let _state = state::get()?;
    Err(result::ERROR_NOT_SUPPORTED)
}

/// None looks at its arguments: their number and types do not matter to the C interface then.
macro_rules! unsupported {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub(super) extern "C" fn $name() -> CUresult {
            guard(refuse)
        }
    )*};
}

unsupported! {
    cuImportExternalMemory
    cuExternalMemoryGetMappedBuffer
    cuDestroyExternalMemory
    cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialClusterSize
}
