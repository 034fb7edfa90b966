import EventLoops
import Glibc

extension SystemError {
  /// True if one file is at fault, and not the storage that holds it: it isn't there or is too long, it is no regular
  /// file, it is a link that leads out or nowhere, or the server's user may not read it.
  ///
  /// What reads many files goes on after such an error, and tells of the file. Any other error ends it: nothing is
  /// known of the rest then.
  var isOfOneFile: Bool {
    isOfWhatHasTheName || [ENOENT, EMSGSIZE, EACCES, EPERM].contains(code)
  }

  /// True if what has the file's name isn't a regular file of the folder.
  var isOfWhatHasTheName: Bool { [EISDIR, ENXIO, ENOTDIR, ELOOP, EXDEV].contains(code) }
}
