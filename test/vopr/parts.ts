/** The classes under test: those of the package, or of a copy of it that was changed. */
import { ClientPort } from '#rubato/protocol/client-port.js';
import { SpecTable } from '#rubato/protocol/specs.js';
import { ClientRegions } from '#rubato/scheduler/regions.js';
import { VirtualHost } from '#rubato/sim/virtual-host.js';
import type { KillSwitch } from '../kill/instrument.js';
import { load } from '../sim/copies.js';

export interface Parts {
  readonly VirtualHost: typeof VirtualHost;
  readonly ClientPort: typeof ClientPort;
  readonly SpecTable: typeof SpecTable;
  readonly ClientRegions: typeof ClientRegions;
  /** Of a copy whose roles can be killed at any statement. */
  readonly kill: KillSwitch | null;
  /** The kill points at which threads die, where deaths are drawn by point; null: all. */
  readonly deadly: readonly number[] | null;
}

export const PARTS: Parts = { VirtualHost, ClientPort, SpecTable, ClientRegions, kill: null, deadly: null };

export async function partsOf(copy: string, hasKillPoints = false, deadly: readonly number[] | null = null): Promise<Parts> {
  const [host, port, specs, regions, kill] = await Promise.all([
    load<Pick<Parts, 'VirtualHost'>>(copy, 'sim/virtual-host'),
    load<Pick<Parts, 'ClientPort'>>(copy, 'protocol/client-port'),
    load<Pick<Parts, 'SpecTable'>>(copy, 'protocol/specs'),
    load<Pick<Parts, 'ClientRegions'>>(copy, 'scheduler/regions'),
    hasKillPoints ? load<KillSwitch>(copy, 'kill') : null,
  ]);
  return { VirtualHost: host.VirtualHost, ClientPort: port.ClientPort, SpecTable: specs.SpecTable, ClientRegions: regions.ClientRegions, kill, deadly };
}
