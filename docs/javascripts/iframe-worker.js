// Browsers refuse workers to pages that are read from the disk, and the search is one: it runs in a hidden frame there.
if (location.protocol === "file:")
  window.Worker = class {
    constructor(url) {
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.documentElement.append(this.frame)
      this.scope = this.frame.contentWindow
      this.scope.postMessage = (data) => this.onmessage?.({ data })
      const script = this.scope.document.createElement("script")
      this.loaded = new Promise((resolve) => (script.onload = resolve))
      script.src = url
      this.scope.document.documentElement.append(script)
    }
    postMessage(data) {
      this.loaded.then(() => this.scope.onmessage({ data }))
    }
    terminate() {
      this.frame.remove()
    }
  }
