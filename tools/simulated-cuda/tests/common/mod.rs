//! Running PTX on the simulated device.
#![allow(dead_code)]

use simulated_cuda::{Device, Fault, Launch, Memory, Module, Profile};

/// A device with its memory.
pub struct Rig {
    pub device: Device,
    pub memory: Memory,
}

/// A kernel parameter, as bytes.
pub trait Argument {
    fn bytes(&self) -> Vec<u8>;
}

macro_rules! argument {
    ($($t:ty),*) => {$(
        impl Argument for $t {
            fn bytes(&self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
        }
    )*};
}
argument!(u8, u16, u32, i32, u64, i64, f32, f64);

/// An element of a buffer.
pub trait Element: Copy {
    fn put(self, to: &mut Vec<u8>);
    fn take(from: &[u8]) -> Self;
    const BYTES: usize;
}

macro_rules! element {
    ($($t:ty),*) => {$(
        impl Element for $t {
            fn put(self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }
            fn take(from: &[u8]) -> Self {
                Self::from_le_bytes(from.try_into().unwrap())
            }
            const BYTES: usize = size_of::<$t>();
        }
    )*};
}
element!(u8, u16, u32, i32, u64, i64, f32, f64);

impl Rig {
    pub fn new() -> Self {
        Self { device: Device { compute_capability: (9, 0), ..Device::default() }, memory: Memory::new(1 << 30) }
    }

    pub fn upload<T: Element>(&self, values: &[T]) -> u64 {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| value.put(&mut bytes));
        let address = self.memory.alloc(bytes.len() as u64).unwrap();
        self.memory.write(address, &bytes).unwrap();
        address
    }

    pub fn alloc<T: Element>(&self, count: usize) -> u64 {
        self.memory.alloc((count * T::BYTES) as u64).unwrap()
    }

    pub fn download<T: Element>(&self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * T::BYTES];
        self.memory.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(T::BYTES).map(T::take).collect()
    }

    pub fn module(&self, ptx: &str) -> Module {
        Module::parse(ptx, self.device.compute_capability).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn launch(
        &self,
        module: &Module,
        kernel: &str,
        (grid, block, dynamic_shared): ([u32; 3], [u32; 3], u32),
        arguments: &[&dyn Argument],
    ) -> Result<Profile, Fault> {
        let function = module.function(kernel).expect(kernel);
        assert_eq!(arguments.len(), function.params.len(), "{kernel}: number of arguments");
        let mut params = vec![0; function.param_bytes as usize];
        for (param, argument) in function.params.iter().zip(arguments) {
            let bytes = argument.bytes();
            assert_eq!(bytes.len(), param.size as usize, "{kernel}: size of an argument");
            params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let globals = module.place(&self.memory).unwrap();
        let launch = Launch { grid, block, dynamic_shared, params: &params, globals };
        let result = simulated_cuda::launch(&self.device, &self.memory, &function, &launch);
        if globals != 0 {
            self.memory.free(globals).unwrap();
        }
        result
    }
}
