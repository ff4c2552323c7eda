// The Python module pqhost: a QApplication, PythonQt in the Python that imports it, and keys that tests press.
#include <QApplication>
#include <QKeyEvent>
#include <QWidget>

#include "PythonQt.h"

void PythonQt_init_QtCore(PyObject*);
void PythonQt_init_QtGui(PyObject*);
void PythonQt_init_QtUiTools(PyObject*);
extern Q_GUI_EXPORT bool qt_sendShortcutOverrideEvent(
    QObject*, ulong, int, Qt::KeyboardModifiers, const QString&, bool, ushort);

class Keys : public QObject {
  Q_OBJECT
 public slots:
  // As QTest::keyClick does: to the shortcuts first.
  void click(QWidget* widget, int key) {
    const QString text = key < Qt::Key_Escape ? QString(QChar(key)).toLower() : QString();
    if (qt_sendShortcutOverrideEvent(widget, 0, key, Qt::NoModifier, text, false, 1)) return;
    for (const auto type : {QEvent::KeyPress, QEvent::KeyRelease}) {
      QKeyEvent event(type, key, Qt::NoModifier, text);
      QApplication::sendEvent(widget, &event);
    }
  }
};

static int count = 1;
static char name[] = "BrainDiff tests";
static char* arguments[] = {name, nullptr};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "pqhost", nullptr, -1, nullptr};

extern "C" Q_DECL_EXPORT PyObject* PyInit_pqhost() {
  new QApplication(count, arguments);
  PythonQt::init(PythonQt::IgnoreSiteModule | PythonQt::PythonAlreadyInitialized);
  PythonQt_init_QtCore(nullptr);
  PythonQt_init_QtGui(nullptr);
  PythonQt_init_QtUiTools(nullptr);
  PyObject* module = PyModule_Create(&definition);
  PythonQt::self()->addObject(module, "keys", new Keys);
  return module;
}

#include "host.moc"
