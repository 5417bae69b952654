// The inspector as a web page of its own: what a notebook's kernel does elsewhere, a small server does here.
import inspector from './inspector.js'

const listeners = []
let last = Promise.resolve()

async function ask(message) {                        // -> [reply, buffers]
  const headers = { 'Content-Type': 'application/json' }
  const answer = await fetch('ask', { method: 'POST', headers, body: JSON.stringify(message) })
  if (!answer.ok) throw new Error(await answer.text())
  const bytes = await answer.arrayBuffer(), view = new DataView(bytes), length = view.getUint32(0)
  const { reply, sizes } = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)))
  let at = 4 + length
  return [reply, sizes.map(n => new DataView(bytes, (at += n) - n, n))]
}

function answer(message) {
  return ask(message).catch(e => {
    const gone = 'The app does not answer: it was stopped. Start it again; what you did is on the disk.'
    const text = e instanceof TypeError ? gone : e.message
    return [{ seq: message.seq, view: message.view, message: [text, 'error'] }, []]
  }).then(([reply, buffers]) => listeners.forEach(f => f(reply, buffers)))
}

const model = {
  on: (_, listener) => listeners.push(listener),
  send: message => {                                 // one after the other, but for what may come late
    if (['ready', 'thumbs'].includes(message.kind)) answer(message)
    else last = last.then(() => answer(message))
  },
}
inspector.render({ model, el: document.body, app: true })
