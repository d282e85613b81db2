// The large files of the page: gzip in base64, in scripts that call `payload(name, text)`.
// A script, unlike a request, also works where the page is opened from a folder.

/** Returns the bytes of a payload; an Error if it is missing or damaged. */
export async function payload(name) {
  const text = globalThis.payloads[name];
  if (text === undefined) throw new Error(`${name} is missing: keep the page's files together`);
  try {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Error(`${name} is damaged or cut short: make the page again`);
  } finally {
    delete globalThis.payloads[name];
  }
}

/** Returns the bytes of base64 text. */
export function bytes(text) {
  const characters = atob(text);
  const found = new Uint8Array(characters.length);
  for (let index = 0; index < found.length; index++) found[index] = characters.charCodeAt(index);
  return found;
}
