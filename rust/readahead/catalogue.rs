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
    // Index into the residents, for units that were residents at first.
    resident: Option<u32>,
}

/// All units. Fixed, but for the words of the residents.
#[derive(Debug)]
pub(crate) struct Catalogue {
    units: Box<[Unit]>,
    residents: Box<[Resident]>,
}

impl Catalogue {
    /// The units with their names and layouts; `residents` lie one after the other from the start
    /// of the arena, up to the offset that comes back too.
    pub(crate) fn new(
        units: Vec<(String, UnitLayout)>,
        residents: &[u32],
    ) -> Result<(Self, usize), Error> {
        let mut units: Box<[Unit]> = units
            .into_iter()
            .map(|(name, layout)| Unit {
                name,
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
