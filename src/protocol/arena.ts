export const PAGE_BYTES = 65536;
export const arenaPages = (limitBytes: number): number => Math.floor(limitBytes / PAGE_BYTES);
