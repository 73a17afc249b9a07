//! What can be asked for: the units, how their parts lie, and which of them are residents.

use crate::error::Error;
use crate::extent::UnitLayout;
use crate::readahead::resident::{Resident, ResidentState};
use crate::readahead::ring::Ring;

/// One unit.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) name: String,
    pub(crate) layout: UnitLayout,
    /// The devices it lies on.
    pub(crate) devices: DeviceSet,
    // Index into the residents, for units that were residents at first.
    resident: Option<u32>,
}

/// Some of the devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceSet(u64);

impl DeviceSet {
    /// Devices that are told apart; any further one counts as the last of them.
    pub(crate) const MOST: usize = 64;

    pub(crate) fn insert(&mut self, device: usize) {
        self.0 |= 1 << device;
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// All units. Fixed, but for the words of the residents.
#[derive(Debug)]
pub(crate) struct Catalogue {
    units: Box<[Unit]>,
    residents: Box<[Resident]>,
    // Of each file.
    devices: Box<[usize]>,
    device_count: usize,
}

impl Catalogue {
    /// The units with their names and layouts; `residents` lie one after the other from the start
    /// of the arena, up to the offset that comes back too. `devices` says where each file lies.
    pub(crate) fn new(
        units: Vec<(String, UnitLayout)>,
        residents: &[u32],
        devices: &[u32],
    ) -> Result<(Self, usize), Error> {
        let (devices, device_count) = number(devices);
        let devices_of = |layout: &UnitLayout| {
            let mut set = DeviceSet::default();
            for read in layout.reads() {
                set.insert(devices.get(read.extent.file as usize).copied().unwrap_or(0));
            }
            set
        };
        let mut units: Box<[Unit]> = units
            .into_iter()
            .map(|(name, layout)| Unit {
                name,
                devices: devices_of(&layout),
                layout,
                resident: None,
            })
            .collect();
        let count = units.len();
        let mut places = Vec::with_capacity(residents.len());
        let mut end = 0_usize;
        for (index, &unit) in (0..).zip(residents) {
            let entry = units
                .get_mut(unit as usize)
                .ok_or(Error::UnknownUnit { unit, count })?;
            if entry.resident.replace(index).is_some() {
                return Err(Error::RepeatedResident {
                    unit: entry.name.clone(),
                });
            }
            places.push(Resident::new(unit, end));
            end = end
                .checked_add(Ring::footprint(entry.layout.nbytes()))
                .ok_or(Error::ArenaTooLarge { needed: u64::MAX })?;
        }
        Ok((
            Self {
                units,
                residents: places.into(),
                devices,
                device_count,
            },
            end,
        ))
    }

    pub(crate) fn units(&self) -> &[Unit] {
        &self.units
    }

    pub(crate) fn unit(&self, unit: u32) -> Result<&Unit, Error> {
        self.units.get(unit as usize).ok_or(Error::UnknownUnit {
            unit,
            count: self.units.len(),
        })
    }

    pub(crate) fn nbytes(&self, unit: u32) -> usize {
        self.units
            .get(unit as usize)
            .map_or(0, |unit| unit.layout.nbytes())
    }

    /// The devices a unit lies on; none if it has no bytes.
    pub(crate) fn devices(&self, unit: u32) -> DeviceSet {
        self.units
            .get(unit as usize)
            .map_or(DeviceSet::default(), |unit| unit.devices)
    }

    /// The device of a file, from 0.
    pub(crate) fn device(&self, file: u32) -> usize {
        self.devices.get(file as usize).copied().unwrap_or(0)
    }

    /// How many devices there are; at least one.
    pub(crate) fn device_count(&self) -> usize {
        self.device_count
    }

    pub(crate) fn name(&self, unit: u32) -> String {
        self.units
            .get(unit as usize)
            .map_or_else(|| unit.to_string(), |unit| unit.name.clone())
    }

    pub(crate) fn names(&self, units: impl IntoIterator<Item = u32>) -> Vec<String> {
        units.into_iter().map(|unit| self.name(unit)).collect()
    }

    pub(crate) fn residents(&self) -> &[Resident] {
        &self.residents
    }

    /// The resident that a unit is, unless it was given up.
    pub(crate) fn resident(&self, unit: u32) -> Option<(u32, &Resident)> {
        let index = self.units.get(unit as usize)?.resident?;
        let resident = self.residents.get(index as usize)?;
        let stays = !matches!(
            resident.state(),
            ResidentState::Leaving | ResidentState::Evicted
        );
        stays.then_some((index, resident))
    }

    /// Whether there is nothing left to read, for ever.
    pub(crate) fn is_all_loaded(&self) -> bool {
        self.residents.len() == self.units.len()
            && self
                .residents
                .iter()
                .all(|resident| resident.state() == ResidentState::Loaded)
    }
}

// Number devices in the order in which they come first.
fn number(devices: &[u32]) -> (Box<[usize]>, usize) {
    let mut known = Vec::new();
    let numbers = devices
        .iter()
        .map(|device| {
            let found = known.iter().position(|other| other == device);
            let number = found.unwrap_or(known.len());
            if found.is_none() && known.len() < DeviceSet::MOST {
                known.push(*device);
            }
            number.min(DeviceSet::MOST - 1)
        })
        .collect();
    (numbers, known.len().max(1))
}
